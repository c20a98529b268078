import xml.etree.ElementTree as ET

from etc.tools.rivals.flame import Box, boxes, picture, tree

SVG = "{http://www.w3.org/2000/svg}"
STACKS = ["main (berth/main.py);read (lib.py) 1", "main (berth/main.py);send <x> (lib.py) 2", "idle (lib.py) 1"]


def test_boxes_have_their_share_below_their_caller() -> None:
    assert boxes(tree(STACKS)) == [
        Box(name="all", depth=0, left=0.0, share=1.0),
        Box(name="main (berth/main.py)", depth=1, left=0.0, share=0.75),
        Box(name="idle (lib.py)", depth=1, left=0.75, share=0.25),
        Box(name="send <x> (lib.py)", depth=2, left=0.0, share=0.5),
        Box(name="read (lib.py)", depth=2, left=0.5, share=0.25),
    ]


def test_what_is_too_narrow_to_be_seen_is_left_out() -> None:
    found = boxes(tree(["a 1000000", "b;c 1"]))
    assert [box.name for box in found] == ["all", "a"]


def test_a_function_that_calls_itself_has_a_box_in_each_row() -> None:
    assert [(box.name, box.depth) for box in boxes(tree(["a;a;a 3"]))] == [("all", 0), ("a", 1), ("a", 2), ("a", 3)]


def test_the_picture_is_svg_with_names_and_shares() -> None:
    root = ET.fromstring(picture(STACKS, "64 connections & more"))  # noqa: S314 - our own text

    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert titles[1] == "main (berth/main.py) (75.0%)"
    assert "send <x> (lib.py) (50.0%)" in titles
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert texts[0] == "64 connections & more: 4 samples"
    assert "main (berth/main.py)" in texts
    lowest = max(
        float(rect.get("y", 0)) + float(rect.get("height", 0)) for rect in root.iter(f"{SVG}rect") if rect.get("y")
    )
    assert lowest <= float(root.get("height", 0))
    right = max(float(rect.get("x", 0)) + float(rect.get("width", 0)) for rect in root.iter(f"{SVG}rect"))
    assert right <= 1200


def test_long_names_are_cut_to_their_box() -> None:
    texts = [text.text or "" for text in ET.fromstring(picture([f"{'x' * 500} 1"], "t")).iter(f"{SVG}text")]  # noqa: S314 - our own text
    assert texts[-1].endswith("..")
    assert len(texts[-1]) < 200


def test_without_samples_there_is_only_a_title() -> None:
    assert len(list(ET.fromstring(picture([], "t")).iter(f"{SVG}text"))) == 1  # noqa: S314 - our own text
