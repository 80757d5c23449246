"""Every implementation of attention against attention written out, and the rule that chooses among them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from short_sequences import CASES, compare, explicit, inputs

from timesformer_plus.models import kernels
from timesformer_plus.models.kernel_choices import Key, Timing, bucket_of, choose_from, read_timings, write_timings
from timesformer_plus.models.kernel_timing import Shape, measure_kernels, time_attention_shapes
from timesformer_plus.models.kernels import Case, attend, choose_kernel, load_choices, use_kernel, why_not
from timesformer_plus.models.packed_flex import packed_flex, sequences_of_tile
from timesformer_plus.models.short_attention import LONGEST, tile_of

GPU = torch.device("cuda", 0)
TIMING = Timing("Some GPU", "float32", 8, 2352, 8, 64, False, "forward", {"sdpa": 1.0, "triton": 0.5, "flex": 0.8})

# PyTorch does, where FlexAttention is compiled
looks_for_gradients_of_views = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _no_wishes(monkeypatch):
    monkeypatch.delenv(kernels.KERNEL_VARIABLE, raising=False)
    monkeypatch.delenv(kernels.CHOICES_VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_choices", None)


# --- equality


@pytest.mark.parametrize("cases", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_triton_in_its_interpreter(cases):
    """In a process of its own: an interpreter would count for all later users of triton in this one."""
    pytest.importorskip("triton")
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "interpreted_short_attention.py"],
        cwd=Path(__file__).parent,
        env={**own, "TRITON_INTERPRET": "1", "SHORT_ATTENTION_CASES": cases},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.parametrize(("L", "S", "d", "causal", "layout"), CASES[:35:5] + CASES[-7:])
def test_flex_in_eager_mode(L, S, d, causal, layout):
    with torch.no_grad():
        compare("flex", *inputs(2, 6, L, S, d, layout), causal, gradients=False)


@looks_for_gradients_of_views
def test_gradients_pass_through_packed_flex(monkeypatch):
    # PyTorch has the backward pass on a CPU, written out, and refuses it because it is slow
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    q, k, v = inputs(2, 6, 8, 8, 16)
    wanted = torch.autograd.grad(explicit(q, k, v, True).sin().sum(), (q, k, v))
    for ours, theirs in zip(
        torch.autograd.grad(packed_flex(q, k, v, True).sin().sum(), (q, k, v)), wanted, strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("L", "S", "d", "causal", "layout"), CASES)
def test_sdpa(L, S, d, causal, layout):
    compare("sdpa", *inputs(2, 5, L, S, d, layout), causal)


def test_sdpa_in_parts_of_what_a_launch_takes(monkeypatch):
    monkeypatch.setattr(kernels, "MOST_HEADS", 2)
    x = inputs(2, 5, 4, 4, 8)
    y = kernels._in_parts(*x, True, 0.0)
    torch.testing.assert_close(y, attend(*x, causal=True))
    assert y.transpose(1, 2).is_contiguous()


@pytest.mark.gpu
@looks_for_gradients_of_views
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["sdpa", "flex", "triton"])
@pytest.mark.parametrize(("L", "S", "d", "causal", "layout"), CASES[:35:3] + CASES[-7:])
def test_on_a_gpu(kernel, L, S, d, causal, layout, dtype):
    case = Case(GPU, dtype, L, S, d, causal, training=True)
    if reason := why_not(kernel, case):
        pytest.skip(reason)
    for heads in (6, tile_of(L, S, d, dtype.itemsize)[0] + 1):
        compare(kernel, *inputs(2, heads, L, S, d, layout, dtype, "cuda"), causal)


@pytest.mark.gpu
def test_a_gpu_compiles_a_chosen_kernel_as_one_graph():
    def attention(q, k, v):
        return attend(2 * q, k, v, causal=True).transpose(1, 2).flatten(2)

    compiled = torch.compile(attention, fullgraph=True)
    x = inputs(2, 96, 8, 8, 64, "tokens", torch.bfloat16, "cuda")
    with use_kernel("triton"):
        torch.testing.assert_close(compiled(*x), attention(*x))
    torch.testing.assert_close(compiled(*x), attention(*x))


@pytest.mark.parametrize("program", ["forward", "backward"])
@pytest.mark.parametrize(("kind", "capability"), [("bf16", 90), ("fp32", 80)])
def test_programs_compile_for_gpus_that_are_not_here(program, kind, capability, tmp_path, monkeypatch):
    """The interpreter takes what the compiler refuses."""
    triton = pytest.importorskip("triton", minversion="3.3")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from timesformer_plus.models import short_attention_triton as programs

    if programs.INTERPRETED:
        pytest.skip("triton was imported as an interpreter")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    packed, rows, cols, width = tile_of(8, 8, 64, 4 if kind == "fp32" else 2)
    sizes = {"L": 8, "S": 8, "D": 64, "CAUSAL": True, "PACKED": packed, "ROWS": rows, "COLS": cols, "WIDTH": width}
    function = getattr(programs, program)
    pointers = {"q", "k", "v", "out", "grad", "grad_q", "grad_k", "grad_v"}
    signature = {
        name: "constexpr" if name in sizes else f"*{kind}" if name in pointers else "fp32" if name == "scale" else "i32"
        for name in function.arg_names
    }
    constants = {(function.arg_names.index(name),): value for name, value in sizes.items()}
    source = ASTSource(function, signature, constants)
    assert "cubin" in triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm


@pytest.mark.parametrize("length", range(1, LONGEST + 1))
def test_tiles_hold_whole_sequences(length):
    for keys in (1, length, LONGEST):
        for width, itemsize in ((8, 2), (64, 2), (80, 2), (64, 4), (256, 4)):
            packed, rows, cols, channels = tile_of(length, keys, width, itemsize)
            assert packed >= 1
            assert packed * length <= rows <= 64
            assert packed * keys <= cols <= 64
            assert channels >= max(width, 16)
            assert all(n & (n - 1) == 0 for n in (rows, cols, channels))


def test_sequences_share_a_tile_of_flex_evenly():
    assert sequences_of_tile(2352, 8) == 16
    assert sequences_of_tile(2352, 17) == 7
    assert sequences_of_tile(13, 8) == 13
    assert sequences_of_tile(17, 8) == 1
    assert sequences_of_tile(4, 200) == 1


# --- the choice


def case(**changes):
    return Case(torch.device("cpu"), torch.float32, 8, 8, 64)._replace(**changes)


def test_without_a_word_it_is_sdpa():
    for device in ("cpu", "cuda"):
        assert choose_kernel(case(device=torch.device(device))) == "sdpa"


def test_who_is_listened_to(monkeypatch):
    monkeypatch.setenv(kernels.KERNEL_VARIABLE, "flex")
    assert choose_kernel(case()) == "flex"
    with use_kernel("sdpa"):
        assert choose_kernel(case()) == "sdpa"
        assert choose_kernel(case(), "flex") == "flex"
        with use_kernel("flex"):
            assert choose_kernel(case()) == "flex"
            assert choose_kernel(case(), "auto") == "sdpa"
        assert choose_kernel(case()) == "sdpa"
    assert choose_kernel(case()) == "flex"
    monkeypatch.setenv(kernels.KERNEL_VARIABLE, "")
    assert choose_kernel(case()) == "sdpa"


def test_only_the_argument_speaks_of_long_sequences(monkeypatch):
    long = case(queries=197, keys=197)
    monkeypatch.setenv(kernels.KERNEL_VARIABLE, "triton")
    assert choose_kernel(long) == "sdpa"
    with use_kernel("triton"):
        assert choose_kernel(long) == "sdpa"
    assert choose_kernel(long, "flex") == "flex"
    with pytest.raises(ValueError, match=r"1 to 32 tokens, got 197 queries and 197 keys; take 'sdpa' or 'flex'"):
        choose_kernel(long, "triton")


def test_names_that_are_none(monkeypatch):
    x = inputs(1, 1, 2, 2, 8)
    with pytest.raises(ValueError, match="argument kernel is 'cuda', which is not one of auto sdpa flex triton"):
        attend(*x, kernel="cuda")
    with pytest.raises(ValueError, match="'cuda'"), use_kernel("cuda"):
        pass
    monkeypatch.setenv(kernels.KERNEL_VARIABLE, "Triton")
    with pytest.raises(ValueError, match="TIMESFORMER_PLUS_KERNEL is 'Triton', which is not one of auto sdpa flex tri"):
        attend(*x)


@pytest.mark.parametrize(
    ("kernel", "changes", "words"),
    [
        ("triton", {"dropout_p": 0.1}, "no dropout of attention weights, got 0.1; set attn_drop to 0"),
        ("flex", {"dropout_p": 0.1}, "no dropout of attention weights"),
        ("triton", {"dtype": torch.float64}, "float32, bfloat16 or float16, got torch.float64"),
        ("triton", {"keys": 33}, "1 to 32 tokens, got 8 queries and 33 keys"),
        ("triton", {"queries": 0}, "1 to 32 tokens, got 0 queries"),
        ("triton", {"head_dim": 257}, "up to 256 channels, got 257"),
        ("flex", {"training": True}, "no backward pass on a CPU"),
        ("flex", {"device": GPU, "head_dim": 8}, "at least 16 channels, got 8"),
    ],
)
def test_refusals(kernel, changes, words):
    with pytest.raises(ValueError, match=words) as refusal:
        choose_kernel(case(**changes), kernel)
    assert "'sdpa'" in str(refusal.value)
    with use_kernel(kernel):
        if max(changes.get("keys", 0), changes.get("queries", 0)) <= LONGEST:
            with pytest.raises(ValueError, match="asked for by use_kernel"):
                choose_kernel(case(**changes))
    assert choose_kernel(case(**changes), "auto") == "sdpa"


def test_triton_needs_a_gpu_or_its_interpreter(monkeypatch):
    monkeypatch.setattr(kernels, "_triton_state", lambda: "compiled")
    with pytest.raises(ValueError, match=r"needs a CUDA device, got cpu; set TRITON_INTERPRET=1"):
        choose_kernel(case(), "triton")
    assert choose_kernel(case(device=GPU), "triton") == "triton"
    monkeypatch.setattr(kernels, "_triton_state", lambda: "missing")
    with pytest.raises(ValueError, match="not installed"):
        choose_kernel(case(device=GPU), "triton")


def test_shapes_and_types_that_do_not_fit():
    q, k, v = inputs(2, 3, 4, 4, 8)
    for bad in ((q[0], k, v), (q, k[:, :2], v[:, :2]), (q, k, v[:, :, :3]), (q[..., :4], k, v)):
        with pytest.raises(ValueError, match="should be"):
            attend(*bad)
    with pytest.raises(ValueError, match="one type"):
        attend(q, k.bfloat16(), v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attend(q, k.bfloat16(), v).dtype == torch.bfloat16


def test_without_numbers_and_under_export():
    q = torch.empty(2, 3, 4, 8, device="meta")
    assert attend(q, q, q).shape == q.shape

    class Model(torch.nn.Module):
        def forward(self, x):
            return attend(x, x, x)

    exported = torch.export.export(
        Model(), (torch.randn(2, 3, 4, 8),), dynamic_shapes=({0: torch.export.Dim("batch", min=2, max=9)},)
    )
    x = torch.randn(5, 3, 4, 8)
    torch.testing.assert_close(exported.module()(x), attend(x, x, x))


# --- timings


def test_a_file_of_timings_decides_on_its_gpu(tmp_path, monkeypatch):
    file = tmp_path / "timings.json"
    write_timings([TIMING, replace(TIMING, direction="training", milliseconds={"sdpa": 1.0, "triton": 0.97})], file)
    monkeypatch.setattr(kernels, "_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(kernels, "_triton_state", lambda: "compiled")
    here = case(device=GPU)
    monkeypatch.setenv(kernels.CHOICES_VARIABLE, str(file))
    assert choose_kernel(here) == "triton"
    assert choose_kernel(here._replace(queries=5, keys=6)) == "triton"
    others = {"queries": 9, "head_dim": 32, "causal": True, "training": True, "dtype": torch.bfloat16, "dropout_p": 0.1}
    for name, value in {**others, "device": torch.device("cpu")}.items():
        assert choose_kernel(here._replace(**{name: value})) == "sdpa", name
    monkeypatch.setattr(kernels, "_triton_state", lambda: "missing")
    assert choose_kernel(here) == "sdpa"
    monkeypatch.setattr(kernels, "_triton_state", lambda: "compiled")
    with use_kernel("sdpa"):
        assert choose_kernel(here) == "sdpa"
    monkeypatch.setattr(kernels, "_device_name", lambda _: "Another GPU")
    assert choose_kernel(here) == "sdpa"
    monkeypatch.setattr(kernels, "_device_name", lambda _: "Some GPU")
    assert load_choices(None) == {}
    assert choose_kernel(here) == "sdpa"
    assert load_choices(file)[TIMING.key] == "triton"
    assert choose_kernel(here) == "triton"


def test_a_choice_is_faster_on_every_shape_of_its_key():
    assert TIMING.key == Key("Some GPU", "float32", 8, 64, False, "forward")
    slow = replace(TIMING, heads=12, tokens=5, milliseconds={"sdpa": 1.0, "triton": 1.5, "flex": 0.9})
    assert choose_from([TIMING, slow]) == {TIMING.key: "flex"}
    assert choose_from([TIMING, replace(slow, milliseconds={"sdpa": 1.0, "triton": 1.5})]) == {TIMING.key: "sdpa"}
    assert choose_from([]) == {}
    assert [bucket_of(n) for n in (1, 4, 5, 8, 9, 32)] == [4, 4, 8, 8, 16, 32]
    with pytest.raises(ValueError, match="up to 32"):
        bucket_of(33)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": 33},
        {"tokens": "8"},
        {"direction": "backward"},
        {"milliseconds": {"triton": 1.0}},
        {"milliseconds": {"sdpa": 0}},
        {"milliseconds": {"sdpa": 1.0, "cudnn": 1.0}},
        {"more": 1},
    ],
)
def test_files_that_are_none(tmp_path, change):
    file = tmp_path / "timings.json"
    write_timings([TIMING], file)
    assert read_timings(file) == [TIMING]
    content = json.loads(file.read_text())
    content["timings"][0] |= change
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"timings.json is no file of timings"):
        read_timings(file)
    for text in ("[]", "{", '{"format": 2, "timings": []}'):
        file.write_text(text)
        with pytest.raises(ValueError, match="no file of timings"):
            load_choices(file)
    with pytest.raises(ValueError, match="no file of timings"):
        load_choices(tmp_path / "missing.json")


def test_measuring_on_a_cpu_times_sdpa():
    shapes = [Shape(2, 3, 4, 8), Shape(1, 2, 9, 8, causal=True)]
    timings = measure_kernels(shapes, "cpu", torch.float32, rounds=2)
    assert [(t.device, t.dtype, t.batch, t.heads, t.tokens, t.causal, t.direction) for t in timings] == [
        ("cpu", "float32", 2, 3, 4, False, "forward"),
        ("cpu", "float32", 2, 3, 4, False, "training"),
        ("cpu", "float32", 1, 2, 9, True, "forward"),
        ("cpu", "float32", 1, 2, 9, True, "training"),
    ]
    assert all(list(t.milliseconds) == ["sdpa"] for t in timings)
    with pytest.raises(ValueError, match="rounds"):
        measure_kernels(shapes, "cpu", torch.float32, rounds=0)
    assert time_attention_shapes(frames=[8]) == [Shape(32, 2352, 8, 64, causal) for causal in (False, True)]


@pytest.mark.gpu
@looks_for_gradients_of_views
def test_measuring_on_a_gpu_times_all(tmp_path):
    timings = measure_kernels([Shape(2, 96, 8, 64)], "cuda", torch.bfloat16, rounds=2)
    assert all(set(t.milliseconds) == {"sdpa", "flex", "triton"} for t in timings)
    write_timings(timings, tmp_path / "timings.json")
    assert load_choices(tmp_path / "timings.json") == choose_from(timings)


# --- torch.compile and autocast


def test_compiles_as_one_graph_for_any_batch():
    def attention(q, k, v):
        return attend(2 * q, k, v, causal=True).transpose(1, 2).flatten(2)

    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True, dynamic=True)
    for B in (2, 3, 5):
        x = inputs(B, 6, 4, 4, 16, "rows")
        y, wanted = compiled(*x), attention(*x)
        torch.testing.assert_close(y, wanted)
        for ours, theirs in zip(
            torch.autograd.grad(y.sin().sum(), x), torch.autograd.grad(wanted.sin().sum(), x), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert compiled(*x).dtype == attention(*x).dtype == torch.bfloat16


def test_a_compiled_model_asks_for_timings_on_a_gpu(tmp_path, monkeypatch):
    """Read while it is traced, for a device that need not be here."""

    def choice(x):
        return 2 * x, choose_kernel(Case(GPU, torch.float32, x.shape[0], x.shape[0], x.shape[1]))

    monkeypatch.setattr(kernels, "_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(kernels, "_triton_state", lambda: "compiled")
    compiled = torch.compile(choice, backend="eager", fullgraph=True, dynamic=True)
    assert compiled(torch.zeros(8, 64))[1] == "sdpa"
    torch._dynamo.reset()
    kernels._choices = None
    write_timings([TIMING], tmp_path / "timings.json")
    monkeypatch.setenv(kernels.CHOICES_VARIABLE, str(tmp_path / "timings.json"))
    assert compiled(torch.zeros(8, 64))[1] == "triton"
    assert compiled(torch.zeros(8, 32))[1] == "sdpa"
    assert compiled(torch.zeros(40, 64))[1] == "sdpa"


def test_flex_compiles_as_one_graph():
    compiled = torch.compile(lambda *x: attend(*x, kernel="flex"), backend="eager", fullgraph=True)
    with torch.no_grad():
        q, k, v = inputs(2, 6, 4, 4, 16)
        torch.testing.assert_close(compiled(q, k, v).double(), explicit(q, k, v, False), rtol=1e-5, atol=1e-5)


@looks_for_gradients_of_views
def test_a_mask_made_without_gradients_serves_training(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    with torch.inference_mode():
        packed_flex(*inputs(1, 2, 7, 7, 16, "rows"), False)
    q, k, v = inputs(1, 2, 7, 7, 16, "rows")
    assert torch.autograd.grad(packed_flex(q, k, v, False).sum(), v)[0].sum() == pytest.approx(2 * 7 * 16, rel=1e-5)
