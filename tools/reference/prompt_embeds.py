"""Sepia's prompt syntax on top of a diffusers SDXL pipeline, for references of whole pictures.

Weights in brackets, any length in chunks of 75 tokens. A plain prompt of up to 75 tokens gives exactly what the pipeline's
own encode_prompt gives. Importable: encode(pipe, prompt) and encode_pair(pipe, prompt, negative_prompt).
"""

import re

import torch

TOKENS = 75
LEXER = re.compile(r"\\[()]|[()]|[^\\()]+|\\", re.DOTALL)
EXPLICIT = re.compile(r"(.*):\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*\Z", re.DOTALL | re.ASCII)


def parse(text: str) -> list[tuple[str, float]]:
    """(text, weight) of every stretch of the prompt."""
    tokens = LEXER.findall(text)
    partner, stack = {}, []
    for i, token in enumerate(tokens):
        if token == "(":
            stack.append(i)
        elif token == ")" and stack:
            start = stack.pop()
            partner[start], partner[i] = i, start

    # The weight of a bracket, and the text that is left of its last stretch when the weight was written out.
    weight_of, shortened = {}, {}
    for start, end in partner.items():
        if start > end:
            continue
        weight_of[start] = 1.1
        first = end
        while first - 1 > start and len(tokens[first - 1]) != 0 and tokens[first - 1] not in ("(", ")", "\\(", "\\)"):
            first -= 1
        match = EXPLICIT.match("".join(tokens[first:end]))
        if match:
            weight_of[start] = float(match.group(2))
            shortened[first] = (match.group(1), end)

    pieces, current, weight, outer = [], "", 1.0, []

    def flush():
        nonlocal current
        if current:
            pieces.append((current, weight))
        current = ""

    i = 0
    while i < len(tokens):
        token = tokens[i]
        if i in shortened:
            current += shortened[i][0]
            i = shortened[i][1]
            continue
        if i in partner and token == "(":
            flush()
            outer.append(weight)
            weight *= weight_of[i]
        elif i in partner:
            flush()
            weight = outer.pop()
        else:
            current += token[-1] if token in ("\\(", "\\)") else token
        i += 1
    flush()
    return pieces


def chunk(tokenizer, text: str) -> list[tuple[list[int], list[float]]]:
    """(77 ids, 77 weights) of every chunk."""
    ids, weights = [], []
    for piece, weight in parse(text):
        found = tokenizer(piece, add_special_tokens=False).input_ids
        ids += found
        weights += [weight] * len(found)
    chunks = []
    for start in range(0, max(len(ids), 1), TOKENS):
        part, part_weights = ids[start : start + TOKENS], weights[start : start + TOKENS]
        rest = TOKENS - len(part)
        chunks.append(
            (
                [tokenizer.bos_token_id, *part, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * rest],
                [1.0, *part_weights, *[1.0] * (rest + 1)],
            )
        )
    return chunks


def apply_weights(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """h' = h_last + (h - h_last) * w for hidden (1, 77, C) and weights (77); where w is 1, h itself."""
    last = hidden[:, -1:]
    w = weights.reshape(1, -1, 1).to(hidden.dtype)
    return torch.where(w == 1, hidden, last + (hidden - last) * w)


def _encoders(pipe):
    both = [(pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)]
    return [(tokenizer, encoder) for tokenizer, encoder in both if encoder is not None]


def _texts(pipe, prompt, prompt_2):
    texts = [prompt, prompt if prompt_2 is None else prompt_2]
    return texts[-len(_encoders(pipe)) :]


def count_chunks(pipe, prompt: str, prompt_2: str | None = None) -> int:
    """How many chunks the longer of the two prompts fills."""
    return max(len(chunk(t, text)) for (t, _), text in zip(_encoders(pipe), _texts(pipe, prompt, prompt_2)))


@torch.no_grad()
def encode(pipe, prompt: str, prompt_2: str | None = None, clip_skip: int | None = None, chunks: int | None = None):
    """(prompt embeds (1, 77 * chunks, C), pooled embeds (1, P)), with at least `chunks` chunks."""
    count = max(count_chunks(pipe, prompt, prompt_2), chunks or 1)
    columns, pooled = [], None
    for (tokenizer, encoder), text in zip(_encoders(pipe), _texts(pipe, prompt, prompt_2)):
        parts = chunk(tokenizer, text)
        parts += chunk(tokenizer, "") * (count - len(parts))
        rows = []
        for index, (ids, weights) in enumerate(parts):
            out = encoder(torch.tensor([ids]), output_hidden_states=True)
            if index == 0 and out[0].ndim == 2:
                pooled = out[0]
            states = out.hidden_states[-(clip_skip or 0) - 2]
            rows.append(apply_weights(states, torch.tensor(weights)))
        columns.append(torch.cat(rows, dim=1))
    return torch.cat(columns, dim=-1), pooled


@torch.no_grad()
def encode_pair(pipe, prompt, negative_prompt=None, prompt_2=None, negative_prompt_2=None, clip_skip=None):
    """(embeds, negative embeds, pooled, negative pooled), both of one length; order and meaning of encode_prompt.

    As in the pipeline, clip_skip is for the prompt and not for the negative one.
    """
    if negative_prompt is None and negative_prompt_2 is None and pipe.config.force_zeros_for_empty_prompt:
        embeds, pooled = encode(pipe, prompt, prompt_2, clip_skip)
        return embeds, torch.zeros_like(embeds), pooled, torch.zeros_like(pooled)
    negative = negative_prompt or ""
    negative_2 = negative if negative_prompt_2 is None else negative_prompt_2
    count = max(count_chunks(pipe, prompt, prompt_2), count_chunks(pipe, negative, negative_2))
    embeds, pooled = encode(pipe, prompt, prompt_2, clip_skip, count)
    negative_embeds, negative_pooled = encode(pipe, negative, negative_2, None, count)
    return embeds, negative_embeds, pooled, negative_pooled
