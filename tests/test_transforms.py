"""Every way that torch runs, differentiates, captures or moves the loss: the cases of the table in docs/transforms.md.

Each case compares with the truth: the same loss in float64, by plain operations (which a target that requires grad asks
for) and ``torch.autograd.grad``, nothing else.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint
from weight_files import EVERY_TERM as FORM
from weight_files import random_file

from task_losses import DenoiseLoss, JPEGLoss, SRLoss, TaskLoss, operator

DOCS = Path(__file__).parents[1] / "docs" / "transforms.md"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    path.write_bytes(random_file(FORM))
    return path


@dataclass
class Setting:
    """A loss, two images, and what is true of them."""

    file: Path
    loss: TaskLoss
    pred: Tensor
    target: Tensor

    @classmethod
    def make(cls, file: Path, *shape: int, **options: Any) -> Setting:
        generator = torch.Generator().manual_seed(7)
        pred, target = (torch.rand(shape, generator=generator) for _ in range(2))
        return cls(file, TaskLoss(file, **options), pred, target)

    def small(self) -> Setting:
        """For whole Jacobians: the finest level alone of 11 x 12 pixels."""
        return Setting.make(self.file, 1, 1, 12, 11)

    def of(self, pred: Tensor) -> Tensor:
        result: Tensor = self.loss(pred, self.target)
        return result

    def leaf(self) -> Tensor:
        return self.pred.clone().requires_grad_()

    def _truth(self, pred: Tensor) -> Tensor:
        loss = copy.deepcopy(self.loss).double()
        result: Tensor = loss(pred, self.target.double().requires_grad_())
        return result

    def value(self) -> Tensor:
        return self._truth(self.pred.double()).detach()

    def gradient(self) -> Tensor:
        pred = self.pred.double().requires_grad_()
        return torch.autograd.grad(self._truth(pred), pred)[0]

    def by_target(self) -> Tensor:
        return replace(self, pred=self.target, target=self.pred).gradient()  # the distance is symmetric

    def second(self, direction: Tensor) -> Tensor:
        """The second derivative times a direction."""
        pred = self.pred.double().requires_grad_()
        (first,) = torch.autograd.grad(self._truth(pred), pred, create_graph=True)
        return torch.autograd.grad(first, pred, direction.double())[0]


def same(found: Tensor | None, expected: Tensor, dtype: torch.dtype = torch.float32, rounding: float = 1e-5) -> None:
    """Equal up to rounding, relative to the largest number."""
    assert found is not None
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= rounding * expected.abs().max()


def gradient_of(image: Tensor) -> Tensor:
    """What a backward pass has left."""
    assert image.grad is not None
    return image.grad


@pytest.fixture
def s(file: Path) -> Setting:
    return Setting.make(file, 2, 3, 24, 20)


Check = Callable[[Setting], None]
CASES: dict[str, tuple[str, Check]] = {}
SLOW: set[str] = set()


def case(name: str, remark: str = "", slow: bool = False) -> Callable[[Check], Check]:
    """One row of the table.

    Args:
        remark: what a user has to know; empty if it just works.
    """

    def add(check: Check) -> Check:
        CASES[name] = (remark, check)
        SLOW.update({name} if slow else ())
        return check

    return add


# In eager mode


@case("forward and backward")
def _(s: Setting) -> None:
    pred = s.leaf()
    value = s.of(pred)
    value.backward()
    same(value, s.value())
    same(pred.grad, s.gradient())


@case("gradient by the target")
def _(s: Setting) -> None:
    pred, target = s.leaf(), s.target.clone().requires_grad_()
    same(torch.autograd.grad(s.loss(s.pred, target), target)[0], s.by_target())
    both = torch.autograd.grad(s.loss(pred, target), (pred, target))
    same(both[0], s.gradient())
    same(both[1], s.by_target())


@case("second derivatives: `create_graph=True`")
def _(s: Setting) -> None:
    pred = s.leaf()
    (first,) = torch.autograd.grad(s.of(pred), pred, create_graph=True)
    same(first, s.gradient())
    same(torch.autograd.grad(first, pred, s.target)[0], s.second(s.target))


@case("`is_grads_batched=True`")
def _(s: Setting) -> None:
    s.loss.reduction = "none"
    for again in (False, True):
        pred = s.leaf()
        (rows,) = torch.autograd.grad(s.of(pred), pred, torch.eye(2), is_grads_batched=True, create_graph=again)
        assert not rows[0, 1].any()
        assert not rows[1, 0].any()
        s.loss.reduction = "sum"
        same(rows[0] + rows[1], s.gradient())
        s.loss.reduction = "none"


@case("`gradcheck`, `gradgradcheck`", "after `loss.double()`")
def _(s: Setting) -> None:
    s = s.small()
    s.loss.double()
    pred, target = s.pred.double().requires_grad_(), s.target.double()
    # Along random directions; tests of the losses check every element.
    assert gradcheck(lambda x: s.loss(x, target), pred, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(lambda x: s.loss(x, target), pred, fast_mode=True)


@case("forward mode: `torch.autograd.forward_ad`")
def _(s: Setting) -> None:
    for pred in (s.pred, s.leaf()):
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(s.of(forward_ad.make_dual(pred, s.target))).tangent
            by_target = forward_ad.unpack_dual(s.loss(pred, forward_ad.make_dual(s.target, s.pred))).tangent
        assert tangent is not None
        assert by_target is not None
        same(tangent.detach(), (s.gradient() * s.target).sum())
        same(by_target.detach(), (s.by_target() * s.pred).sum())


@case("`no_grad`, `inference_mode`")
def _(s: Setting) -> None:
    with torch.no_grad():
        same(s.of(s.leaf()), s.value())
    with torch.inference_mode():
        value = s.of(s.pred)
    same(value, s.value())
    pred = s.leaf()  # and training after it
    same(torch.autograd.grad(s.of(pred), pred)[0], s.gradient())


@case("loss built, or target made, under `inference_mode`")
def _(s: Setting) -> None:
    with torch.inference_mode():
        built, target = TaskLoss(s.file), s.target.clone()
        moved = TaskLoss(s.file).double().float()
    for loss in (built, moved):
        assert not any(buffer.is_inference() for buffer in loss.buffers())
        pred = s.leaf()
        (first,) = torch.autograd.grad(loss(pred, target), pred, create_graph=True)
        same(first, s.gradient())
        same(torch.autograd.grad(first, pred, s.target)[0], s.second(s.target))


@case("`channels_last`")
def _(s: Setting) -> None:
    pred = s.pred.to(memory_format=torch.channels_last).requires_grad_()
    s.of(pred).backward()
    same(pred.grad, s.gradient())


@case("`checkpoint`, reentrant and not")
def _(s: Setting) -> None:
    for reentrant in (True, False):
        pred = s.leaf()
        checkpoint(s.loss, pred, s.target, use_reentrant=reentrant).backward()
        same(pred.grad, s.gradient())


@case("`save_on_cpu` and other hooks of saved tensors")
def _(s: Setting) -> None:
    pred = s.leaf()
    with torch.autograd.graph.save_on_cpu():
        value = s.of(pred)
    value.backward()
    same(pred.grad, s.gradient())


@case("`autocast` with `GradScaler`", "computes in float32 all the same")
def _(s: Setting) -> None:
    network = nn.Conv2d(3, 3, 1)
    scaler = torch.amp.GradScaler("cpu")
    with torch.autocast("cpu", torch.bfloat16):
        restored = network(s.pred)
        restored.retain_grad()
        value = s.of(restored)
    assert restored.dtype == torch.bfloat16
    scaler.scale(value).backward()
    s.pred = restored.detach().float()
    same(restored.grad.float() / scaler.get_scale(), s.gradient(), rounding=4e-3)  # bfloat16's own
    same(value, s.value())


@case("`DataParallel`", "proven on the CPU alone, where it is one copy")
def _(s: Setting) -> None:
    pred = s.leaf()
    nn.DataParallel(s.loss)(pred, s.target).backward()
    same(pred.grad, s.gradient())


@case("`mask=`, in eager mode, by plain operations, with torch.func, compiled", "export: tested with dynamic N")
def _(s: Setting) -> None:
    mask = torch.rand(2, 1, 24, 20, generator=torch.Generator().manual_seed(1)) * (torch.arange(20) > 6)

    def of(pred: Tensor, target: Tensor, mask: Tensor = mask) -> Tensor:
        result: Tensor = s.loss(pred, target, mask)
        return result

    loss = copy.deepcopy(s.loss).double()
    pred = s.pred.double().requires_grad_()
    truth = loss(pred, s.target.double().requires_grad_(), mask.double())
    (first,) = torch.autograd.grad(truth, pred, create_graph=True)
    (second,) = torch.autograd.grad(first, pred, s.target.double())
    leaf = s.leaf()
    same(of(leaf, s.target).detach(), truth.detach())
    with torch.inference_mode():
        same(of(s.pred, s.target), truth.detach())
        made_there = mask.clone()
    same(torch.autograd.grad(of(leaf, s.target, made_there), leaf)[0], first.detach())
    (found,) = torch.autograd.grad(of(leaf, s.target), leaf, create_graph=True)
    same(found.detach(), first.detach())
    same(torch.autograd.grad(found, leaf, s.target)[0], second)
    same(grad(of)(s.pred, s.target), first.detach())
    same(jvp(lambda x: of(x, s.target), (s.pred,), (s.target,))[1], (first.detach() * s.target).sum())
    same(vmap(grad(of))(s.pred, s.target, mask) / 2, first.detach())  # as (C, H, W)
    torch.compiler.reset()
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    same(torch.autograd.grad(compiled(leaf, s.target), leaf)[0], first.detach())
    same(torch.autograd.grad(compiled(leaf, s.target, mask > 0), leaf)[0], gradient_with(s, mask > 0))
    count = {0: torch.export.Dim("count", min=2, max=8)}
    images, finest = (s.pred, s.target, mask), TaskLoss(s.file, scales=[2])
    exported = torch.export.export(finest, images, dynamic_shapes=(count,) * 3, strict=False).module()
    more = tuple(torch.cat([image, image[:1]]) for image in images)
    same(exported(*more), finest(*more).double())
    at_meta = copy.deepcopy(s.loss).to("meta")(*(image.to("meta") for image in images))
    assert at_meta.shape == ()


def gradient_with(s: Setting, mask: Tensor) -> Tensor:
    pred = s.pred.double().requires_grad_()
    loss = copy.deepcopy(s.loss).double()
    return torch.autograd.grad(loss(pred, s.target.double(), mask), pred)[0]


@case("video (N, T, C, H, W), single images, `per_channel`")
def _(s: Setting) -> None:
    film = s.pred[None].clone().requires_grad_()
    same(torch.autograd.grad(s.loss(film, s.target[None]), film)[0][0], s.gradient())
    same(vmap(s.loss)(s.pred, s.target).mean(), s.value())
    grey = Setting.make(s.file, 4, 1, 24, 20)
    loss, pred, target = (
        TaskLoss(s.file, channels="per_channel"),
        *(x.view(2, 2, 24, 20) for x in (grey.pred, grey.target)),
    )
    for run in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = pred.clone().requires_grad_()
        value = run(leaf, target)
        value.backward()
        same(value, grey.value())
        same(leaf.grad, grey.gradient().view(2, 2, 24, 20))


# torch.func


@case("`torch.func.grad`", "keeps feature maps: twice the memory or more, as do all rows of torch.func")
def _(s: Setting) -> None:
    same(grad(s.of)(s.pred), s.gradient())
    same(grad(s.loss, argnums=1)(s.pred, s.target), s.by_target())
    inner = grad(lambda target: (grad(s.loss)(s.pred, target) * s.target).sum())  # by the one, then by the other
    step = 1e-3
    double = copy.deepcopy(s.loss).double()
    around = [grad(double)(s.pred.double(), s.target.double() + sign * step * s.pred.double()) for sign in (1, -1)]
    expected = ((around[0] - around[1]) / (2 * step) * s.target).sum()
    same((inner(s.target) * s.pred).sum(), expected, rounding=2e-3)


@case("`torch.func.vjp`")
def _(s: Setting) -> None:
    value, pull = vjp(s.of, s.pred)  # type: ignore[misc]
    same(value, s.value())
    same(pull(torch.tensor(2.0))[0], 2 * s.gradient())


@case("`torch.func.jvp`")
def _(s: Setting) -> None:
    for reduction in ("mean", "sum", "none"):
        s.loss = TaskLoss(s.file, reduction=reduction, loss_weight=0.5, data_range=2)
        value, tangent = jvp(s.of, (s.pred,), (s.target,))  # type: ignore[misc]
        same(value, s.value())
        if reduction != "none":
            same(tangent, (s.gradient() * s.target).sum())
        assert tangent.dtype == torch.float32


@case("`torch.func.jvp` of a gradient")
def _(s: Setting) -> None:
    first, second = jvp(grad(s.of), (s.pred,), (s.target,))  # type: ignore[misc]
    same(first, s.gradient())
    same(second, s.second(s.target))


@case("`torch.func.jacrev`, `jacfwd`")
def _(s: Setting) -> None:
    s = s.small()
    same(jacrev(s.of)(s.pred), s.gradient())
    same(jacfwd(s.of)(s.pred), s.gradient())


@case("`torch.func.hessian`")
def _(s: Setting) -> None:
    s = s.small()
    direction = s.target.flatten()
    found = hessian(s.of)(s.pred)
    same((found.view(len(direction), -1) @ direction).view_as(s.pred), s.second(s.target))


@case("`torch.func.vmap`")
def _(s: Setting) -> None:
    values = vmap(lambda x, y: s.loss(x[None], y[None]))(s.pred, s.target)
    same(values.mean(), s.value())


@case("`vmap(grad(...))`: a gradient for each sample")
def _(s: Setting) -> None:
    s.loss.reduction = "sum"
    same(vmap(grad(lambda x, y: s.loss(x[None], y[None])))(s.pred, s.target), s.gradient())


@case("`vmap(hessian(...))`")
def _(s: Setting) -> None:
    s = s.small()
    found = vmap(hessian(s.loss))(torch.stack([s.pred, s.target]), torch.stack([s.target] * 2))
    direction = s.target.flatten()
    same((found[0].view(len(direction), -1) @ direction).view_as(s.pred), s.second(s.target))


@case("`torch.func.functional_call`")
def _(s: Setting) -> None:
    buffers = {name: buffer.double() for name, buffer in s.loss.named_buffers()}
    found = functional_call(s.loss, buffers, (s.pred.double(), s.target.double()))
    same(found, s.value(), torch.float64, rounding=1e-12)


# Compiled


SIZES = ((2, 3, 24, 20), (3, 3, 28, 33), (4, 3, 31, 27))


def compiled_at_sizes(s: Setting, backend: str) -> None:
    """Value and gradient have eager's own bits, and after the second size nothing is compiled again.

    Inductor computes the mean over the images in its own order.
    """
    torch.compiler.reset()
    compiled = torch.compile(s.loss, fullgraph=True, backend=backend)
    for number, shape in enumerate(SIZES):
        s = Setting.make(s.file, *shape)
        pred, eager = s.leaf(), s.leaf()
        with torch._dynamo.config.patch(error_on_recompile=number > 1):
            value = compiled(pred, s.target)
            value.backward()
        expected = s.of(eager)
        expected.backward()
        rounding = 1e-6 if backend == "inductor" else 0
        torch.testing.assert_close(value, expected, rtol=rounding, atol=0)
        torch.testing.assert_close(gradient_of(pred), gradient_of(eager), rtol=rounding, atol=0)


@case("`torch.compile(loss, fullgraph=True)`", "one operator: eager's bits and memory, no recompilation by size")
def _(s: Setting) -> None:
    compiled_at_sizes(s, "aot_eager")


@case("... with inductor", "the mean over images is rounded in its own way", slow=True)
def _(s: Setting) -> None:
    compiled_at_sizes(s, "inductor")


@case("... network and loss as one step")
def _(s: Setting) -> None:
    torch.compiler.reset()
    network = nn.Conv2d(3, 3, 3, padding=1)

    def step(image: Tensor, target: Tensor) -> Tensor:
        result: Tensor = s.loss(network(image), target)
        return result

    step(s.pred, s.target).backward()
    expected = gradient_of(network.weight).clone()
    network.zero_grad()
    torch.compile(step, fullgraph=True, backend="aot_eager")(s.pred, s.target).backward()
    torch.testing.assert_close(network.weight.grad, expected)


@case("... several losses, copies, other precisions")
def _(s: Setting) -> None:
    torch.compiler.reset()
    others = [TaskLoss(s.file, scales=[2], loss_weight=3), JPEGLoss(pretrained=False), copy.deepcopy(s.loss).double()]
    losses = [s.loss, *others, pickle.loads(pickle.dumps(s.loss)).to("meta").to_empty(device="cpu")]
    for loss in losses:
        dtype = next(loss.buffers()).dtype
        pred, eager = (s.pred.to(dtype, copy=True).requires_grad_() for _ in range(2))
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        compiled(pred, s.target.to(dtype)).backward()
        loss(eager, s.target.to(dtype)).backward()
        assert torch.equal(gradient_of(pred), gradient_of(eager))
        same(pred.grad, Setting(s.file, loss, s.pred, s.target).gradient(), dtype)


@case("... `no_grad`; gradient by the target")
def _(s: Setting) -> None:
    torch.compiler.reset()
    compiled = torch.compile(s.loss, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(s.pred, s.target), s.of(s.pred))
    pred, target = s.leaf(), s.target.clone().requires_grad_()
    same(torch.autograd.grad(compiled(s.pred, target), target)[0], s.by_target())
    both = torch.autograd.grad(compiled(pred, target), (pred, target))
    same(both[0], s.gradient())
    same(both[1], s.by_target())


@case("... `torch.func` inside", "captures plain operations: seconds become minutes with all scales")
def _(s: Setting) -> None:
    torch.compiler.reset()
    s = s.small()
    s.loss.reduction = "sum"
    per_sample = vmap(grad(lambda x, y: s.loss(x[None], y[None])))
    found = torch.compile(per_sample, fullgraph=True, backend="aot_eager")(s.pred, s.target)
    same(found, s.gradient())


@case("... second derivatives", "torch refuses: \u201cdoes not currently support double backward\u201d")
def _(s: Setting) -> None:
    torch.compiler.reset()
    pred = s.leaf()
    value = torch.compile(s.loss, backend="aot_eager")(pred, s.target)
    (first,) = torch.autograd.grad(value, pred, create_graph=True)
    with pytest.raises(RuntimeError, match=r"not currently support double backward|does not require grad"):
        first.sum().backward()


@case("the operator itself: `torch.library.opcheck`, second derivatives")
def _(s: Setting) -> None:
    arguments = operator_arguments(s.small())
    torch.library.opcheck(torch.ops.task_losses.distance.default, arguments)
    pred, target, _, *others = arguments
    mask = torch.linspace(0, 2, pred[:, :1].numel()).view_as(pred[:, :1])
    torch.library.opcheck(torch.ops.task_losses.distance.default, (pred, target, mask, *others))
    s = s.small()
    s.loss.double()
    pred, target, *others = operator_arguments(s)
    assert gradgradcheck(lambda x, y: torch.ops.task_losses.distance(x, y, *others)[0], (pred, target), fast_mode=True)


def operator_arguments(s: Setting) -> tuple[Any, ...]:
    """As compiled code calls it, for gradients by both images."""
    weights = list(s.loss.buffers())
    colour = [image.to(weights[0].dtype).repeat(1, 3, 1, 1).requires_grad_() for image in (s.pred, s.target)]
    values = astuple(FORM)
    form = [list(value) if isinstance(value, tuple) else value for value in values]
    return (*colour, None, weights, *form, [0, 1, 2], "pyramid", True, True)


def test_the_operator_holds_the_discriminators_of_few_losses_and_of_the_latest(file: Path) -> None:
    settings = [Setting.make(file, 1, 1, 12, 11) for _ in range(2 * operator._MOST_LOSSES)]
    for s in settings:
        value = torch.ops.task_losses.distance(*operator_arguments(s))[0]
        torch.testing.assert_close(value[0], s.of(s.pred))
    assert len(operator._made) == operator._MOST_LOSSES
    held = {id(weight()) for made_of, _ in operator._made.values() for weight in made_of}
    latest = {id(x) for s in settings[-operator._MOST_LOSSES :] for x in s.loss.buffers()}
    assert held == latest


# Captured


class Wrapped(nn.Module):
    """A module of which the loss is a part, as networks with a training step inside are."""

    def __init__(self, loss: TaskLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        result: Tensor = self.loss(pred, target)
        return result


@case("`torch.export`, strict and not; dynamic N, H, W", "plain operations; ranges of H and W within one set of levels")
def _(s: Setting) -> None:
    count, height, width = (torch.export.Dim(name, min=low, max=256) for name, low in (("N", 1), ("H", 40), ("W", 40)))
    shapes = ({0: count, 2: height, 3: width},) * 2
    s = Setting.make(s.file, 2, 3, 40, 47, scales=[1, 2])
    for strict in (True, False):
        program = torch.export.export(Wrapped(s.loss), (s.pred, s.target), dynamic_shapes=shapes, strict=strict)
        assert not any("task_losses" in str(node.target) for node in program.graph.nodes)
        for shape in ((2, 3, 40, 47), (3, 3, 57, 42)):
            other = Setting.make(s.file, *shape, scales=[1, 2])
            pred = other.leaf()
            program.module()(pred, other.target).backward()
            same(pred.grad, other.gradient())


@case(
    "ONNX, in onnxruntime: `torch.onnx.export(dynamo=True)`",
    "opset 18; dynamic N; the value, for a gradient export that",
)
def _(s: Setting) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]

    count = torch.export.Dim("N", min=1, max=64)
    program = torch.onnx.export(
        s.loss, (s.pred, s.target), dynamo=True, opset_version=18, dynamic_shapes=({0: count},) * 2, verbose=False
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for other in (s, Setting.make(s.file, 3, 3, 24, 20)):
        names = [node.name for node in session.get_inputs()]
        images = (other.pred.numpy(), other.target.numpy())
        (value,) = session.run(None, dict(zip(names, images, strict=True)))
        same(torch.as_tensor(value), other.value())


@case("`make_fx`", "real; fake and symbolic with the buffers as inputs, as for any module")
def _(s: Setting) -> None:
    s.loss = TaskLoss(s.file, scales=[1, 2])  # symbols take torch many seconds a scale
    buffers = dict(s.loss.named_buffers())

    def by_pred(pred: Tensor, target: Tensor, buffers: dict[str, Tensor]) -> Tensor:
        pred = pred.detach().requires_grad_()
        return torch.autograd.grad(functional_call(s.loss, buffers, (pred, target)), pred)[0]

    for mode in ("real", "fake", "symbolic"):
        graph = make_fx(by_pred, tracing_mode=mode)(s.pred, s.target, buffers)
        same(graph(s.pred, s.target, buffers), s.gradient())
    pred = s.leaf()  # and what tracing saw is not what computing sees
    same(torch.autograd.grad(s.of(pred), pred)[0], s.gradient())


@case("`FakeTensorMode`", "build the loss before it; `allow_non_fake_inputs=True`, as for any module")
def _(s: Setting) -> None:
    s = Setting.make(s.file, 2, 3, 26, 22)  # a size of its own, which nothing has computed before
    with FakeTensorMode(allow_non_fake_inputs=True):
        pred = torch.empty(s.pred.shape, requires_grad=True)
        s.of(pred).backward()
        assert gradient_of(pred).shape == s.pred.shape
    same(s.of(s.pred), s.value())


@case("the meta device")
def _(s: Setting) -> None:
    pred = s.pred.to("meta").requires_grad_()
    value = s.loss.to("meta")(pred, s.target.to("meta"))
    value.backward()
    assert (value.shape, gradient_of(pred).shape) == ((), s.pred.shape)
    same(s.loss.to("cpu")(s.pred, s.target), s.value())


@case("`torch.jit.trace`", "for one size; warns that shapes become constants")
def _(s: Setting) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(s.loss, (s.leaf(), s.target))
    other = replace(s, pred=s.target, target=s.pred)
    pred = other.leaf()
    traced(pred, other.target).backward()
    same(pred.grad, other.gradient())


# What the tracer of an older torch cannot do, or says in other words.
SINCE = {  # what older torch cannot do
    "... `torch.func` inside": "2.8",
    "... second derivatives": "2.8",
    "`torch.export`, strict and not; dynamic N, H, W": "2.13",  # those before it hold H and W to remainders by 4
}


def marks(name: str) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.slow] if name in SLOW else []
    if name in SINCE and torch.torch_version.TorchVersion(torch.__version__) < SINCE[name]:
        found.append(pytest.mark.skip(reason=f"not before torch {SINCE[name]}"))
    return found


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in CASES])
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_the_loss_goes_through(s: Setting, name: str) -> None:
    CASES[name][1](s)


def test_no_tracer_is_asked_for_an_export_by_the_function() -> None:
    """Tracers of torch 2.8 to 2.11 make True of it, whatever they trace; plain operations take minutes to compile."""
    assert "is_exporting" not in operator._in_compiled_graph.__code__.co_names


def table() -> str:
    rows = [f"| {name} | {remark} |" for name, (remark, _) in CASES.items()]
    return "\n".join(["| what | to know |", "|---|---|", *rows])


def test_the_docs_have_this_table() -> None:
    assert table() in DOCS.read_text(encoding="utf-8"), f"docs/transforms.md must hold:\n{table()}"


# What moves modules


def expect_weights(loss: TaskLoss, file: Path) -> None:
    for found, original in zip(loss.buffers(), TaskLoss(file).buffers(), strict=True):
        assert torch.equal(found, original)


class TestWeightsStay:
    @pytest.mark.parametrize(
        "move",
        [
            lambda m: m.to_empty(device="cpu"),
            lambda m: m.to("meta").to_empty(device="cpu"),
            lambda m: m.to("meta").to("cpu"),
            lambda m: m.half().to("meta").half().to("cpu"),
            lambda m: m.double().to("meta").to_empty(device="cpu").float(),
            lambda m: m.share_memory(),
            lambda m: m._apply(lambda tensor: tensor * 0),
        ],
        ids=["to_empty", "meta, to_empty", "meta and back", "half on meta", "double on meta", "share_memory", "_apply"],
    )
    def test_whatever_moves_a_parent(self, file: Path, move: Callable[[nn.Module], nn.Module]) -> None:
        loss = TaskLoss(file)
        move(nn.ModuleList([loss]))
        expect_weights(loss, file)

    def test_conversions_hold_on_the_meta_device(self, file: Path) -> None:
        buffers = TaskLoss(file).to("meta").double().buffers()
        assert {(buffer.device.type, buffer.dtype) for buffer in buffers} == {("meta", torch.float64)}

    def test_a_model_initialised_on_the_meta_device(self, file: Path, tmp_path: Path) -> None:
        """Built without data, emptied onto a device, loaded from a checkpoint that knows nothing of the loss."""
        trained = nn.Conv2d(3, 3, 1)
        with torch.device("meta"):
            model = nn.ModuleDict({"network": nn.Conv2d(3, 3, 1), "loss": TaskLoss(file)})
        model.to_empty(device="cpu")
        model.load_state_dict(nn.ModuleDict({"network": trained}).state_dict())
        loss = model["loss"]
        assert isinstance(loss, TaskLoss)
        expect_weights(loss, file)
        assert loss.weights_sha256 == TaskLoss(file).weights_sha256

    def test_what_is_saved_is_what_was_loaded(self, file: Path, tmp_path: Path) -> None:
        loss = TaskLoss(file).to("meta")
        loss.save_pretrained(tmp_path)
        assert TaskLoss(tmp_path).weights_sha256 == loss.weights_sha256
        expect_weights(TaskLoss(tmp_path), file)

    def test_fully_sharded_with_meta_initialisation(self, file: Path, tmp_path: Path) -> None:
        distributed = pytest.importorskip("torch.distributed")
        fsdp = pytest.importorskip("torch.distributed.fsdp")
        if not distributed.is_available() or not hasattr(fsdp, "fully_shard"):
            pytest.skip("this torch has no FSDP2")
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
        try:
            mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
            with torch.device("meta"):
                model = Wrapped(TaskLoss(file))
                model.network = nn.Conv2d(3, 3, 1)
            fsdp.fully_shard(model, mesh=mesh)
            model.to_empty(device="cpu")
            expect_weights(model.loss, file)
        finally:
            distributed.destroy_process_group()


# Half precision


def lost_in_float16(kind: type[TaskLoss], data_range: float, factor: float) -> float:
    """Share of a loss's gradient, times ``factor``, that float16 makes 0 and float32 does not."""
    generator = torch.Generator().manual_seed(0)
    target = nn.functional.avg_pool2d(torch.rand(1, 3, 512, 512, generator=generator), 9, 1, 4) * data_range
    pred = (target + torch.randn(target.shape, generator=generator) * 0.02 * data_range).half()
    target = target.half()
    loss = kind(data_range=data_range)

    def gradient(pred: Tensor, target: Tensor, factor: float) -> Tensor:
        pred = pred.requires_grad_()
        found = torch.autograd.grad(loss(pred, target) * factor, pred)[0]
        assert found.dtype == pred.dtype
        assert found.isfinite().all()
        return found

    whole = gradient(pred.float(), target.float(), 1.0) != 0
    return ((gradient(pred, target, factor) == 0) & whole).float().mean().item()


@pytest.mark.parametrize(("kind", "most"), [(SRLoss, 1e-4), (DenoiseLoss, 1e-3), (JPEGLoss, 2e-3)])
def test_float16_gradients_need_a_scale(kind: type[TaskLoss], most: float) -> None:
    """A mean over many pixels, by a range of 255, falls below float16's least number. GradScaler's factor lifts it,
    least where images are compared by squares."""
    assert lost_in_float16(kind, 255, 1.0) > 0.05
    assert lost_in_float16(kind, 255, 2.0**16) < most


if __name__ == "__main__":  # the table of docs/transforms.md
    for kind in (SRLoss, DenoiseLoss, JPEGLoss):
        for data_range in (1, 255):
            shares = [lost_in_float16(kind, data_range, 2.0**power) for power in (0, 8, 16)]
            print(kind.__name__, data_range, "  ".join(f"{share:.1e}" for share in shares))  # noqa: T201
