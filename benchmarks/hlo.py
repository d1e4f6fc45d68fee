"""Which part of a training step each instruction of the compiled program belongs to.

XLA keeps for an instruction the Python stack of the operation that it was made of; that of a
gradient is the stack of the forward operation. `RULES` tell the part by the functions in the stack.

A fusion computes many operations at once: it belongs to the part that most of the values computed
in it belong to, where a matrix product counts as many values as it has multiply-adds. An
instruction without a stack, such as a copy that the compiler put in, takes the part of its first
operand that has one.
"""

import functools
import math
import re
from collections import Counter
from dataclasses import dataclass

# From the innermost frame outwards, the first that is named here decides.
# Part, end of the file's path or a folder in it, beginning of the function's qualified name.
RULES = (
    ("dropout", "eanet/models/dropout.py", ""),
    ("normalisation", "eanet/models/attention_fast.py", "normalize"),
    ("normalisation", "eanet/models/ops.py", "_double_normalization"),
    ("normalisation", "eanet/models/self_attention.py", "_softmax_weights"),
    ("normalisation", "eanet/models/attention_fast.py", "FastExternalAttention._normalize"),
    ("attention products", "eanet/models/attention_fast.py", "FastExternalAttention."),
    ("attention products", "eanet/models/self_attention.py", "SelfAttention."),
    ("layer norms", "eanet/models/layers.py", "LayerNorm."),
    ("MLP", "eanet/models/layers.py", "Mlp."),
    ("patch embedding", "eanet/models/stems.py", ""),
    ("local mixing", "eanet/models/local_mixing.py", ""),
    ("residual sums", "eanet/models/eanet.py", "Block."),
    ("loop over blocks", "eanet/models/eanet.py", "EANet._mixed"),
    ("head and loss", "eanet/models/pooling.py", ""),
    ("head and loss", "eanet/models/eanet.py", "EANet.__call__"),
    ("head and loss", "eanet/training/metrics.py", ""),
    ("head and loss", "eanet/training/step.py", "make_loss."),
    ("sums over microbatches", "eanet/training/step.py", "make_gradients.<locals>.add_microbatch"),
    ("sums over microbatches", "eanet/training/step.py", "make_gradients.<locals>.gradients"),
    ("augmentation", "eanet/augment/", ""),
    ("optimizer", "/optax/", ""),
    ("optimizer", "eanet/training/step.py", "_average"),
    ("input", "eanet/training/batches.py", ""),
    ("input", "eanet/training/step.py", "make_train_steps.<locals>.train_steps.<locals>.body"),
    ("other", "eanet/training/step.py", "make_train_steps.<locals>.train_step"),
)

OTHER = "other"
DEVICES = "exchange between devices"  # most of it is waiting for the slower one
PARTS = (*dict.fromkeys(part for part, _, _ in RULES), DEVICES)

# These compute nothing.
_IDLE = {
    "parameter",
    "constant",
    "bitcast",
    "broadcast",
    "iota",
    "tuple",
    "get-tuple-element",
    "reshape",
}


@dataclass(frozen=True)
class Instruction:
    """A line of the program's text."""

    opcode: str
    shape: str
    operands: tuple[str, ...]
    text: str


class Program:
    """The text of a compiled program, `compiled.as_text()`."""

    def __init__(self, text: str):
        self._stacks = _Stacks(text)
        self.instructions: dict[str, Instruction] = {}
        self._computations: dict[str, list[Instruction]] = {}
        self._parts: dict[str, str] = {}
        computation: list[Instruction] = []
        for line in text.splitlines():
            if header := re.match(r"(?:ENTRY )?%([\w.\-]+) .*{$", line):
                computation = self._computations[header[1]] = []
            elif found := re.match(r"\s+(?:ROOT )?%([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$", line):
                name, shape, opcode, rest = found.groups()
                operands = tuple(re.findall(r"%([\w.\-]+)", rest.partition(")")[0]))
                self.instructions[name] = Instruction(opcode, shape, operands, rest)
                computation.append(self.instructions[name])

    def part(self, name: str) -> str:
        """The part that an instruction belongs to, `OTHER` if unknown."""
        if name not in self._parts:
            self._parts[name] = self._find(self.instructions[name])
        return self._parts[name]

    def _find(self, instruction: Instruction) -> str:
        if instruction.opcode.startswith(("all-", "collective-", "reduce-scatter")):
            return DEVICES
        called = re.search(r"calls=%([\w.\-]+)", instruction.text)
        if instruction.opcode == "fusion" and called:
            votes: Counter[str] = Counter()
            for inner in self._computations[called[1]]:
                if inner.opcode not in _IDLE and (part := self._by_stack(inner)):
                    votes[part] += self._values(inner)
            if votes:
                return votes.most_common(1)[0][0]
        if part := self._by_stack(instruction):
            return part
        parts = (self.part(operand) for operand in instruction.operands)
        return next((part for part in parts if part != OTHER), OTHER)

    def _by_stack(self, instruction: Instruction) -> str | None:
        frame = re.search(r"stack_frame_id=(\d+)", instruction.text)
        part = self._stacks.part(int(frame[1])) if frame else None
        if part == "normalisation" and instruction.opcode == "dot":
            return "attention products"  # the logits of self-attention
        return part

    def _values(self, instruction: Instruction) -> int:
        """How many values it computes; of a product, its multiply-adds."""
        values = sum(math.prod(dimensions) for dimensions in _dimensions(instruction.shape))
        contracted = re.search(r"lhs_contracting_dims={([\d,]+)}", instruction.text)
        if instruction.opcode == "dot" and contracted:
            [left] = _dimensions(self.instructions[instruction.operands[0]].shape)
            values *= math.prod(left[int(axis)] for axis in contracted[1].split(","))
        return values


def _dimensions(shape: str) -> list[list[int]]:
    """Of an array, or of all arrays of a tuple: `f32[8,64]{1,0}` is `[[8, 64]]`."""
    found = re.findall(r"\w\[([\d,]*)\]", shape)
    return [[int(size) for size in sizes.split(",") if size] for sizes in found]


class _Stacks:
    """The Python stacks of a program, from the tables at the head of its text."""

    def __init__(self, text: str):
        files = _table(text, "FileNames")
        functions = _table(text, "FunctionNames")
        locations = _table(text, "FileLocations")
        frames = _table(text, "StackFrames")
        self._places = {}
        for key, line in frames.items():
            location = locations[_number(line, "file_location_id")]
            place = (files, "file_name_id"), (functions, "function_name_id")
            file, function = (table[_number(location, name)].strip('"') for table, name in place)
            self._places[key] = file, function
        # Printed with an offset, which the outermost frame tells: it has no parent, number 0.
        parents = {key: _number(line, "parent_frame_id") for key, line in frames.items()}
        offset = parents.get(1, 0)
        self._parents = {key: parent - offset for key, parent in parents.items()}

    @functools.cache  # noqa: B019, a program lives as long as the process
    def part(self, frame: int) -> str | None:
        """The part that the innermost known function of the stack belongs to."""
        if frame not in self._places:
            return None
        file, function = self._places[frame]
        for part, place, beginning in RULES:
            if place in file and function.startswith(beginning):
                return part
        return self.part(self._parents[frame])


def _table(text: str, name: str) -> dict[int, str]:
    """Numbered lines under a heading."""
    found = re.search(rf"^{name}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
    lines = (line.split(" ", 1) for line in found[1].splitlines()) if found else ()
    return {int(number): line for number, line in lines}


def _number(line: str, key: str) -> int:
    """The value of `key=` in a line."""
    found = re.search(rf"{key}=(\d+)", line)
    return int(found[1]) if found else 0
