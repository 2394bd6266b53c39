"""TorchScript files of the user's as features: only with consent, known by their bytes."""

from pathlib import Path

import pytest
import torch
from helpers_features import Means, saved
from helpers_models import configuration, small_data

from bench.config.build import build_metrics, checked
from bench.data.bytes.arrays import revision
from bench.data.bytes.cache import sha256
from bench.errors import UserError
from bench.features.script import OwnScript
from bench.features.stored import stored_features

TRUST = "trust=[bench.features.script]"


def asked(path: Path) -> str:
    return f"metric.fid.features={{_target_: bench.features.script.OwnScript, name: means, weights: {path}}}"


def test_a_file_is_run_only_where_the_user_trusts_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"metric.fid.features: .* runs the code in the file.*add trust=\[bench"):
        checked(configuration("vae", "metric=[fid]", asked(path)))
    config = configuration("vae", "metric=[fid]", asked(path), TRUST)
    checked(config)
    recipe = build_metrics(config["metric"])["fid"].recipe
    data = small_data((3, 8, 8), 256)
    extractor = recipe.extractor(data)
    assert (extractor.name, extractor.hash) == ("means", revision(sha256(path), "256 levels"))
    torch.testing.assert_close(extractor.features(data.test.x), Means()(data.test.x.float() / 255))


@pytest.mark.parametrize("target", ["bench.features.inception.load_script", "bench.features.script.load_script"])
def test_no_other_name_runs_a_file(target: str, tmp_path: Path) -> None:
    node = f"{{_target_: bench.features.own.OwnModule, name: net, module: {{_target_: {target}, path: {tmp_path}}}}}"
    with pytest.raises(UserError, match=r"runs the code in the file"):
        checked(configuration("vae", "metric=[fid]", f"metric.fid.features={node}"))


def test_a_pinned_file_is_that_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt")
    digest = sha256(path)
    for pin in (digest, digest[:16], digest[:20].upper()):
        found = OwnScript("means", str(path), pin).extractor(small_data((3, 8, 8), 256))
        assert found.hash == revision(digest, "256 levels")
    for pin in ("0" * 64, digest[:15], ""):
        with pytest.raises(UserError, match=f"has the SHA-256 {digest}"):
            OwnScript("means", str(path), pin)


def test_what_is_no_script_is_told_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    data = small_data((3, 8, 8), 256)
    with pytest.raises(UserError, match="cannot be read"):
        OwnScript("net", str(path))
    for content in (b"", b"hello", saved(tmp_path / "whole.pt").read_bytes()[:700]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no TorchScript file"):
            OwnScript("net", str(path)).extractor(data)
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="is no TorchScript file"):
        OwnScript("net", str(path)).extractor(data)
    for name in ("a/b", "..", ".", ""):
        with pytest.raises(UserError, match="may hold only"):
            OwnScript(name, str(path))


def test_features_of_the_same_bytes_of_other_levels_are_not_taken_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    recipe = OwnScript("means", str(saved(tmp_path / "net.pt")))
    x = torch.ones(3, 1, 4, 4, dtype=torch.uint8)
    for levels, light in ((2, 1.0), (256, 1 / 255)):
        made = stored_features(recipe.extractor(small_data((1, 4, 4), levels)), x)
        torch.testing.assert_close(made, torch.full((3, 3), light))
