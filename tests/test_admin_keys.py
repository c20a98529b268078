import pytest

from berth import admin_keys


def test_a_key_says_how_long_it_is_valid() -> None:
    assert admin_keys.ends_of(admin_keys.make("s3cret", 1801353600.7).encode(), "s3cret") == 1801353600


@pytest.mark.parametrize(
    "forged",
    [
        admin_keys.make("other", 1801353600),
        admin_keys.make("s3cret", 1801353600).replace("6b", "7b", 1),
        admin_keys.make("s3cret", 1801353600)[:-1],
        "berth-admin-",
        "berth-admin-x-y",
        "sk-berth-x",
        "",
    ],
)
def test_only_keys_of_this_secret_are_valid(forged: str) -> None:
    assert admin_keys.ends_of(forged.encode(), "s3cret") is None


def test_without_a_secret_no_key_is_valid() -> None:
    assert admin_keys.ends_of(admin_keys.make("", 1801353600).encode(), "") is None
