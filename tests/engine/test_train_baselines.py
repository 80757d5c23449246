"""Networks of other libraries through the same harness: trained, scored, counted, predicted with."""

import sys
from dataclasses import replace

import pytest
import timm
from tiny_runs import tiny_run

from timesformer_plus.analysis.cost import measure_saved_models
from timesformer_plus.analysis.time_sensitivity import probe_runs, read_sensitivity
from timesformer_plus.engine.build import build_model, build_on_meta
from timesformer_plus.engine.config import ModelConfig
from timesformer_plus.engine.data_config import DataConfig
from timesformer_plus.engine.predict import main as predict
from timesformer_plus.engine.train import train

# neither has anything in common with ours but what the harness asks of a model
SWIN = ModelConfig("torchvision_swin3d_t", args={"embed_dim": 12, "depths": [1, 1], "num_heads": [1, 2]})
X3D = ModelConfig("pytorchvideo_x3d_xs", args={"stem_dim_in": 8, "depth_factor": 0.3, "drop_rate": 0.2})


def test_from_videos_to_a_score_a_cost_and_altered_clips(direction, tmp_path, monkeypatch, capsys):
    config = tiny_run(tmp_path / "run", direction, model=X3D, data={"num_frames": 8, "img_size": 32})
    result = train(config)
    assert result["status"] == "finished"
    best = tmp_path / "run" / "best"
    ((cost, speed),) = measure_saved_models({"it": best}, threads=1, device="cpu").values()
    assert result["params"] == cost.params > 0
    assert cost.gflops > 0
    assert speed.train_clips_per_second > 0
    probe_runs([tmp_path / "run"], threads=1)
    assert read_sensitivity(tmp_path / "run") is not None
    video = next(direction.rglob("*.mp4"))
    monkeypatch.setattr(sys, "argv", ["predict.py", str(video), "--model", str(best)])
    predict()
    assert "%" in capsys.readouterr().out


def test_what_does_not_fit_a_network_is_said_with_its_option():
    data = DataConfig(root="videos", num_frames=8, img_size=32)
    with pytest.raises(ValueError, match=r"no interleaving to choose; leave pattern out \(model.pattern: null\)"):
        build_model(replace(SWIN, pattern="ts"), data, 2)
    with pytest.raises(ValueError, match=r"cannot be made .*patch_norm.*see model\.args"):
        build_model(replace(SWIN, args={**SWIN.args, "patch_norm": True}), data, 2)


def test_a_saved_model_is_made_on_the_meta_device_without_its_weights(tmp_path):
    data = DataConfig(root="videos", num_frames=8, img_size=32)
    model = build_model(SWIN, data, 2)
    timm.models.save_for_hf(model, tmp_path / "saved", model_args=model.model_args)
    saved = ModelConfig(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    on_meta = build_on_meta(saved, data)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert {name: tensor.shape for name, tensor in on_meta.state_dict().items()} == shapes
    assert all(tensor.is_meta for tensor in on_meta.state_dict().values())
