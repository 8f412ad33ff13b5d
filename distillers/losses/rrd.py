"""RRD: the student relates to a memory of teacher embeddings as the teacher does."""

import torch
from torch import Tensor, nn

from distillers.distributed.collectives import all_gather_rows
from distillers.losses.ops.normalize import l2_normalize
from distillers.losses.ops.precision import at_least_fp32, no_autocast
from distillers.losses.ops.rows import write_rows
from distillers.losses.ops.validation import require_fraction, require_positive

PRESETS: dict[str, dict[str, float | str]] = {
    "recent": {"student_temperature": 0.1, "teacher_temperature": 0.02, "enqueue": "before"},
    "tables": {"student_temperature": 0.04, "teacher_temperature": 0.1, "enqueue": "after"},
}
CHOICES = {
    "enqueue": ("before", "after"),
    "memory": ("fifo", "momentum"),
    "empty": ("keep", "mask"),
    "preset": (None, *PRESETS),
}


class RRD(nn.Module):
    """Relational Representation Distillation.

    Giakoumoglou and Stathaki, 2024, https://arxiv.org/abs/2407.12073.

    With Q a memory of K past teacher embeddings, every embedding brought to `dim` by a linear map
    and then to length one, the student's softened relations to the memory follow the teacher's:

        mean over images of the cross-entropy of softmax(Q t / T_t) and softmax(Q s / T_s)

    Published weight: 1. Two objectives go by this name. `preset="tables"`, temperatures 0.04
    (student) and 0.10 (teacher) and the batch stored after the loss, belongs to the published
    tables. `preset="recent"`, the defaults, 0.10 and 0.02 and the batch stored before, so that an
    image's own key is in the memory, is the later public code, and no table is known for it. (Its
    documentation states the temperatures the other way round than its options.)

    Gradient never reaches the teacher's side, so that `embed_teacher` stays the random projection
    that it starts as. In public code it sits in the optimiser all the same; here it is frozen.

    Set right: the memory starts with rows of length one (the public code normalises columns, and
    rows start at 0.09); any batch size goes, also one larger than the memory; memory and place in
    it are in the state dict; every process of a distributed run stores the batches of all; in
    `memory="momentum"` the teacher is compared with the bank of teacher embeddings, and both
    softmaxes are taken of the plain products (the public code compares it with the student's bank
    and exponentiates twice). In evaluation mode nothing is stored.

    Args:
        student_dim: width of the student's embedding.
        teacher_dim: width of the teacher's embedding.
        dim: width that both are brought to.
        queue_size: K; for `memory="momentum"` the number of training images.
        student_temperature: T_s.
        teacher_temperature: T_t.
        enqueue: store the batch `"before"` or `"after"` the loss.
        memory: `"fifo"`, the last K embeddings; or `"momentum"`, one running embedding an image,
            for which `forward` needs `index` (`RRDMomentum` wires it).
        momentum: share of the old row in `memory="momentum"`.
        empty: what to do with rows not written yet: `"keep"` their random directions, as
            published, or `"mask"` them; the loss is zero while nothing is written.
        preset: `"recent"` or `"tables"`; the options that it sets must be left at their defaults
            or agree with it.

    Raises:
        ValueError: for an option outside these, options at odds with the preset, or no index.
    """

    queue: Tensor
    written: Tensor
    pointer: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        dim: int = 128,
        queue_size: int = 16384,
        student_temperature: float = 0.1,
        teacher_temperature: float = 0.02,
        enqueue: str = "before",
        memory: str = "fifo",
        momentum: float = 0.5,
        empty: str = "keep",
        preset: str | None = None,
    ) -> None:
        require_positive(
            dim=dim,
            queue_size=queue_size,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )
        require_fraction(momentum=momentum)
        super().__init__()
        given = {"enqueue": enqueue, "memory": memory, "empty": empty, "preset": preset}
        for name, value in given.items():
            if value not in CHOICES[name]:
                allowed = " or ".join(repr(choice) for choice in CHOICES[name])
                raise ValueError(f"{name} is {value!r}; it may be {allowed}.")
        settings: dict[str, float | str] = {
            "student_temperature": student_temperature,
            "teacher_temperature": teacher_temperature,
            "enqueue": enqueue,
        }
        if preset is not None:
            for name, value in PRESETS[preset].items():
                if settings[name] not in (value, PRESETS["recent"][name]):
                    raise ValueError(
                        f"preset {preset!r} means {name}={value!r}, not {settings[name]!r}; "
                        "leave out the preset or the option."
                    )
            settings = PRESETS[preset]
        self.student_temperature = float(settings["student_temperature"])
        self.teacher_temperature = float(settings["teacher_temperature"])
        self.enqueue = settings["enqueue"]
        self.memory = memory
        self.momentum = momentum
        self.embed_student = nn.Linear(student_dim, dim)
        self.embed_teacher = nn.Linear(teacher_dim, dim).requires_grad_(False)
        self.register_buffer("queue", l2_normalize(torch.randn(queue_size, dim)))
        self.register_buffer("written", torch.full((queue_size,), empty == "keep"))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(
        self, student_pooled: Tensor, teacher_pooled: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """The loss from student_pooled (n, d_s), teacher_pooled (n, d_t), perhaps index (n,)."""
        student = l2_normalize(at_least_fp32(self.embed_student(student_pooled)))
        teacher = l2_normalize(at_least_fp32(self.embed_teacher(teacher_pooled.detach())))
        if self.enqueue == "before":
            self.store(teacher, index)
        # the product keeps what it was made of for its gradient; the rows may change before that
        rows, written = self.queue.clone(), self.written.clone()
        if self.enqueue == "after":
            self.store(teacher, index)
        with no_autocast(rows):
            of_student = student @ rows.T / self.student_temperature
            of_teacher = teacher @ rows.T / self.teacher_temperature
        nothing = torch.finfo(of_student.dtype).min / 2
        predicted = of_student.masked_fill(~written, nothing).log_softmax(dim=1)
        target = of_teacher.masked_fill(~written, nothing).softmax(dim=1) * written
        return -(target * predicted).sum(dim=1).mean()

    @torch.no_grad()
    def store(self, teacher: Tensor, index: Tensor | None = None) -> None:
        """Write teacher embeddings (n, dim), those of all processes, into the memory."""
        if not self.training:
            return
        teacher = all_gather_rows(teacher)
        if self.memory == "momentum":
            if index is None:
                raise ValueError(
                    "memory='momentum' needs index, the rows in the training set; RRDMomentum is "
                    "wired to them (--memory_type momentum)."
                )
            slots = all_gather_rows(index)
            rows = l2_normalize(self.momentum * self.queue[slots] + (1 - self.momentum) * teacher)
        else:
            size, n = len(self.queue), len(teacher)
            rows = teacher[-size:]
            slots = torch.arange(n - len(rows), n, device=teacher.device)
            slots = (slots + self.pointer) % size
            self.pointer.add_(n).remainder_(size)
        write_rows(self.queue, slots, rows)
        self.written.index_fill_(0, slots, True)
