from __future__ import annotations

from pathlib import Path

import numpy as np
from click.testing import CliRunner

from graphopt.cli.run import command

FIXTURES = Path(__file__).parents[2] / "fixtures"


def test_run_keeps_statistics_in_the_folder_asked_for(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    outputs = []
    for name in ("first.onnx", "second.onnx"):
        arguments = [
            str(FIXTURES / "digits_mlp.onnx"),
            *("-o", str(tmp_path / name)),
            *("-p", 'threshold(sparsity=0.5, score="wanda")'),
            *("--data", str(FIXTURES / "digits_calibration.npz")),
            *("--calibration-memory", "4096"),
            *("--calibration-cache", str(cache)),
            "--no-verify",
        ]
        result = CliRunner().invoke(command, arguments)
        assert result.exit_code == 0, result.output
        (file,) = cache.iterdir()
        outputs.append(((tmp_path / name).stat().st_size, file.stat().st_mtime_ns))
        with np.load(file) as archive:
            assert "facts" in archive
    assert outputs[0] == outputs[1]
