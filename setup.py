"""Builds the loops in C; where there is no compiler for them, the same is done in numpy."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "git_theta.core._loops",
            ["git_theta/core/_loops.c"],
            extra_compile_args=["-O3", "-ffp-contract=off"],
            optional=True,
        )
    ]
)
