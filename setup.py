"""The compiled parts of the package; everything else is in pyproject.toml.

Optional: without a C compiler the package installs all the same, decides with numpy and looks with torch.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "paceline.policies._native",
            sources=["src/paceline/policies/_native.c"],
            depends=[
                "src/paceline/_vectors.h",
                "src/paceline/policies/_native_many.h",
                "src/paceline/policies/_native_kernels.h",
            ],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,
        ),
        Extension(
            "paceline.models.molmoe._one_crop",
            sources=["src/paceline/models/molmoe/_one_crop.c"],
            depends=["src/paceline/_vectors.h", "src/paceline/models/molmoe/_one_crop_kernels.h"],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
