"""Files of weights: what is read, what is refused and with which words, and that nothing in them runs."""

import argparse
import hashlib
import os
import pickle
import shlex
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from timesformer_plus.models.weight_files import read_weights

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Runs:
    """What a malicious file holds: unpickling it writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.trace))}",)


class TrainingOptions:
    """What a harmless file holds: an object of the class of a training script."""

    rate = 0.1


def check(read: dict) -> None:
    assert read.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)


def test_safetensors_by_their_content(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.bin", "weights"):
        save_file(TENSORS, tmp_path / name)
        check(read_weights(tmp_path / name))
        check(read_weights(str(tmp_path / name)))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["m.pyth", "m.pt", "m.pth", "m.bin", "m"])
def test_what_torch_saves(name: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / name, _use_new_zipfile_serialization=zipped)
    check(read_weights(tmp_path / name))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_scripts_save_besides(zipped: bool, tmp_path: Path) -> None:
    more = {
        "args": argparse.Namespace(lr=5e-3, layers=[1, 2], betas=(0.9, 0.999)),
        "best": np.float64(78.0),
        "best32": np.float32(0.5),
        "step": np.int64(3),
        "flag": np.bool_(True),
        "history": np.arange(4.0),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 15,
        "cfg": "TRAIN: {}",
    }
    torch.save({**more, "model_state": OrderedDict(TENSORS)}, tmp_path / "c", _use_new_zipfile_serialization=zipped)
    check(read_weights(tmp_path / "c"))


@pytest.mark.parametrize("path", ["model_state", "state_dict", "model", "module", "model_ema", "model.state_dict"])
def test_tensors_are_found_under_the_usual_keys(path: str, tmp_path: Path) -> None:
    content: dict = TENSORS
    for key in reversed(path.split(".")):
        content = {key: content, "epoch": 1}
    torch.save(content, tmp_path / "c.pth")
    check(read_weights(tmp_path / "c.pth"))


def test_averaged_weights_go_first_as_in_timm(tmp_path: Path) -> None:
    raw = {key: torch.zeros_like(value) for key, value in TENSORS.items()}
    torch.save({"model": raw, "model_ema": TENSORS}, tmp_path / "a.pth")
    torch.save({"model": TENSORS, "model_ema": None}, tmp_path / "b.pth")
    check(read_weights(tmp_path / "a.pth"))
    check(read_weights(tmp_path / "b.pth"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_what_wrappers_put_in_front_goes(prefix: str, tmp_path: Path) -> None:
    save_file({prefix + key: value for key, value in TENSORS.items()}, tmp_path / "a.safetensors")
    check(read_weights(tmp_path / "a.safetensors"))


def test_a_prefix_of_some_names_is_a_name(tmp_path: Path) -> None:
    save_file({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.safetensors")
    assert read_weights(tmp_path / "a.safetensors").keys() == {"module.a", "b"}


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(zipped: bool, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    torch.save({"model": TENSORS, "x": Runs(trace)}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"c\.pth wants to run \S*posix\.system, .*so it is not read") as caught:
        read_weights(tmp_path / "c.pth")
    assert "weights_only" not in str(caught.value)  # torch's own message advises to read it all the same
    assert not trace.exists()
    torch.load(tmp_path / "c.pth", weights_only=False)
    assert trace.exists()  # it would have


@pytest.mark.parametrize("zipped", [True, False])
def test_the_command_that_it_names_converts_the_file(zipped: bool, tmp_path: Path) -> None:
    source, trace = tmp_path / "old check'point.pyth", tmp_path / "it ran"
    content = {"model_state": TENSORS, "args": TrainingOptions(), "x": Runs(trace)}
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"TrainingOptions|posix") as caught:
        read_weights(source)
    message = str(caught.value)
    assert "\n" not in message
    words = shlex.split(message[message.index("python -m") :])
    assert words[0] == "python"
    done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(read_weights(words[-1]))
    assert not trace.exists()


def test_the_digest(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    digest = hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    check(read_weights(tmp_path / "a.safetensors", sha256=digest))
    check(read_weights(tmp_path / "a.safetensors", sha256=digest[:8].upper()))
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    with pytest.raises(ValueError, match=f"has sha256 {digest}, not {other}"):
        read_weights(tmp_path / "a.safetensors", sha256=other)
    with pytest.raises(ValueError, match="8 to 64 hexadecimal digits"):
        read_weights(tmp_path / "a.safetensors", sha256=digest[:7])


def zip_of(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)


def truncate(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def torch_file(path: Path, content: object, **options: object) -> None:
    torch.save(content, path, **options)


def script_file(path: Path) -> None:
    class Twice(torch.nn.Module):
        def forward(self, x):
            return 2 * x

    torch.jit.trace(Twice(), torch.ones(1)).save(str(path))


LEGACY = {"_use_new_zipfile_serialization": False}
WRONG = {
    "empty": (lambda p: p.write_bytes(b""), "is empty"),
    "web page": (lambda p: p.write_bytes(b"\n<!DOCTYPE html><html>404</html>"), "is a web page"),
    "another web page": (lambda p: p.write_bytes(b"<html><head>"), "is a web page"),
    "pointer": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git lfs pull"),
    "json": (lambda p: p.write_text('{\n  "weight_map": {}\n}'), "JSON text"),
    "text": (lambda p: p.write_text("dear reader, how are you"), "neither safetensors nor"),
    "one byte": (lambda p: p.write_bytes(b"\x80"), "neither safetensors nor"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(20)), "has to be unpacked"),
    "zip of pictures": (lambda p: zip_of(p, cat__jpg=b"x"), "zip of something else .cat.jpg."),
    "zip of nothing": (lambda p: zip_of(p), "zip of something else .nothing."),
    "numpy arrays": (lambda p: zip_of(p, a__npy=b"x", b__npy=b"x"), "custom_load=True"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1}, protocol=4)), "neither safetensors nor"),
    "pickle of protocol 2": (lambda p: p.write_bytes(pickle.dumps({"a": 1}, protocol=2)), "damaged or truncated"),
    "program": (script_file, "is a TorchScript program"),
    "number": (lambda p: torch_file(p, 3), "holds a int, not tensors by name"),
    "list": (lambda p: torch_file(p, [torch.ones(2)]), "holds a list, not tensors by name"),
    "no tensors": (lambda p: torch_file(p, {"epoch": 3, "lr": 0.1}), 'no tensors by name, only .*"epoch", "lr"'),
    "nothing": (lambda p: torch_file(p, {"model": {}}), "under 'model' holds no tensors by name"),
    "nested": (lambda p: torch_file(p, {"net": {"a": torch.ones(2)}}), 'no tensors by name, only .*"net"'),
    "mixed": (lambda p: torch_file(p, {"a": torch.ones(2), "b": {"c": 1}}), "more than tensors by name: {'b': 'dict'}"),
    "numbered": (lambda p: torch_file(p, {0: torch.ones(2)}), "more than tensors by name"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_file_of_weights_is_told_so_in_a_line(kind: str, tmp_path: Path) -> None:
    make, reason = WRONG[kind]
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(ValueError, match=reason) as caught:
        read_weights(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.6, 0.95, 0.9999])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_truncated_file(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    large = {**TENSORS, "large": torch.randn(100, 100)}
    save_file(large, path) if kind == "safetensors" else torch_file(path, large, **(LEGACY if kind == "legacy" else {}))
    truncate(path, share)
    with pytest.raises(ValueError, match=r"truncated|neither safetensors nor|JSON") as caught:
        read_weights(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_file_folder_or_pipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file of weights .*no\.pth"):
        read_weights(tmp_path / "no.pth")
    with pytest.raises(ValueError, match="is a folder; name the file"):
        read_weights(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_weights(tmp_path / "pipe")


def test_a_pickle_by_the_name_of_safetensors_is_not_opened(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"is named \.safetensors but is none"):
        read_weights(tmp_path / "model.safetensors")


PEAK = """
import resource, sys
from timesformer_plus.models.weight_files import read_weights
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read = read_weights(sys.argv[1])
total = sum(float(t[0, 0]) for t in read.values())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, total)
"""


@pytest.mark.parametrize("kind", ["safetensors", pytest.param("zip", marks=pytest.mark.slow)])
def test_no_second_copy_is_made(kind: str, tmp_path: Path) -> None:
    """48 MB of tensors raise the peak by no more than themselves and a little."""
    large = {f"{i}": torch.ones(1000, 1500) for i in range(8)}
    path = tmp_path / "large"
    save_file(large, path) if kind == "safetensors" else torch.save({"model": large}, path)
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    grown, total = done.stdout.split()
    assert float(total) == 8
    assert int(grown) < 1.5 * 48_000


def test_timm_reads_numpy_archives_by_its_own_door(tmp_path: Path) -> None:
    """The original files of image models, with their own names and transposed weights."""
    size = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    C, M = 16, 64
    block = "Transformer/encoderblock_0/"
    mha = block + "MultiHeadDotProductAttention_1/"
    rng = np.random.default_rng(0)
    shapes = {
        "embedding/kernel": (8, 8, 3, C),
        "embedding/bias": (C,),
        "cls": (1, 1, C),
        "Transformer/posembed_input/pos_embedding": (1, 5, C),
        "Transformer/encoder_norm/scale": (C,),
        "Transformer/encoder_norm/bias": (C,),
        "head/kernel": (C, 3),
        "head/bias": (3,),
        **{block + f"LayerNorm_{i}/{part}": (C,) for i in (0, 2) for part in ("scale", "bias")},
        **{mha + f"{part}/kernel": (C, 2, 8) for part in ("query", "key", "value")},
        **{mha + f"{part}/bias": (2, 8) for part in ("query", "key", "value")},
        mha + "out/kernel": (2, 8, C),
        mha + "out/bias": (C,),
        block + "MlpBlock_3/Dense_0/kernel": (C, M),
        block + "MlpBlock_3/Dense_0/bias": (M,),
        block + "MlpBlock_3/Dense_1/kernel": (M, C),
        block + "MlpBlock_3/Dense_1/bias": (C,),
    }
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(tmp_path / "vit.npz", **arrays)
    overlay = {"file": str(tmp_path / "vit.npz"), "custom_load": True, "num_classes": 3, "input_size": (3, 16, 16)}
    ours = timm.create_model(
        "timesformer_test_patch8_32", pretrained=True, pretrained_cfg_overlay=overlay, num_frames=2, **size
    ).eval()
    image = timm.models.vision_transformer.VisionTransformer(**size).eval()
    image.load_pretrained(str(tmp_path / "vit.npz"))
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(ours(x[:, :, None].expand(-1, -1, 2, -1, -1)), image(x), rtol=1e-5, atol=1e-5)
