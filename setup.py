"""Distribution `foldwise`: packages framework, trainers and plans, and the fw_* commands."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="foldwise",
    version="0.1.0",
    description="Hook-based training of medical image segmentation networks, compatible with nnU-Net's files",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["framework", "framework.*", "trainers", "trainers.*", "plans", "plans.*"]),
    package_data={"plans": ["*.json", "*.md", "augmentation/*.json"]},
    # Tested versions are in constraints.txt.
    install_requires=[
        "torch>=2.6",
        "numpy>=1.24",
        "scipy>=1.10",
        "SimpleITK>=2.2.1",
        "blosc2>=3.0",
        "matplotlib>=3.7",
        "pillow>=9",
        "batchgenerators>=0.25.1",
    ],
    extras_require={"test": ["pytest>=8", "hypothesis>=6", "ruff", "mypy"]},
    entry_points={
        "console_scripts": [
            "fw_train=framework.commands.train:main",
            "fw_plan=framework.commands.plan:main",
            "fw_preprocess=framework.commands.preprocess:main",
            "fw_check=framework.commands.check:main",
            "fw_convert=framework.commands.convert:main",
            "fw_preview=framework.commands.preview:main",
            "fw_predict=framework.commands.predict:main",
            "fw_evaluate=framework.commands.evaluate:main",
            "fw_select=framework.commands.select:main",
            "fw_ensemble=framework.commands.ensemble:main",
            "fw_postprocess=framework.commands.postprocess:main",
            "fw_export=framework.commands.export:main",
            "fw_import=framework.commands.import_model:main",
        ],
        "foldwise.trainers": ["foldwise=trainers:TRAINERS"],
    },
)
