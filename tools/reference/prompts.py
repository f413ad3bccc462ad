"""Golden token ids, parsed prompts and weighted states: `python tools/reference/prompts.py` writes test/golden/prompts/.

Tokenizers are transformers' CLIPTokenizer: the one of test/golden/models/pocket, and the standard one made of models/clip, each as
SDXL's first (padding with the end mark) and second (padding with "!") tokenizer.
"""

import gzip
import hashlib
import json
import platform
import random
from pathlib import Path

import diffusers
import prompt_embeds
import tokenizers
import torch
import transformers
from tokenizers import AddedToken
from transformers import CLIPTokenizer

SEED = 20231024

TEXTS = [
    "",
    " ",
    "a",
    "a red apple on a light blue background",
    "A Photo Of An ASTRONAUT riding a horse, 8k, HDR!!!",
    "portrait of a woman, (detailed:1.2) eyes, f/1.8, 35mm",
    "it's we're I've they'll he'd I'm don't IT'S WE'RE",
    "it’s a “quoted” word — with dashes – and … dots",
    "'s 't 're ''s '''ss s's' '",
    "tabs\tand\nnewlines\r\n  and   runs of     spaces",
    "no-break\u00a0space, thin\u2009space, ideographic\u3000space, next\u0085line, line\u2028separator",
    "zero\u200bwidth, joiner\u200d, bom\ufeffhere, soft\u00adhyphen",
    "control \x01 and \x7f and \x1c separators \x1f here",
    "1234567890 3.14159 1,000,000 2024-10-31",
    "½ ¾ ² ³ ⅷ Ⅻ １２３ ①② ٣٤ १२",
    "émigré naïve façade Ångström Øresund",
    "e\u0301migre\u0301 combining, A\u030angstro\u0308m",
    "a\u0323\u0301 ẛ\u0323 q\u0307\u0323 \u0344",
    "ﬁ ﬂ ﬀ ligatures, Ⅳ roman, ㎏ unit, ℌ script",
    "Ω ohm K kelvin Å angstrom",
    "İstanbul ISPARTA ıslak DİYARBAKIR",
    "Straße STRASSE ẞ GROẞ",
    "ΟΔΥΣΣΕΥΣ ΣΟΦΟΣ Σ ΑΣ. ᾼ ᾳ",
    "ǅ ǈ ǋ ǲ titlecase",
    "Привет, как дела? ЁЖ",
    "日本の浮世絵、富士山と桜",
    "漢字とカタカナとひらがな ﾊﾝｶｸ ＦＵＬＬ",
    "한국어 조합 가 ᄀ\u1161",
    "สวัสดีชาวโลก ที่นี่",
    "नमस्ते दुनिया क्षि",
    "مرحبا بالعالم العَرَبِيَّة",
    "שָׁלוֹם עולם",
    "😀 smile 🎉🎉🎉 party",
    "👨\u200d👩\u200d👧\u200d👦 family 👍🏽 flag 🇯🇵 keycap 1️⃣",
    "❤️ ☀︎ ☂ ♥",
    "𝕳𝖊𝖑𝖑𝖔 𝒲𝑜𝓇𝓁𝒹 𐐀𐐨",
    "\ufffd replacement \ue000 private \U0010ffff last",
    "<|startoftext|>",
    "<|endoftext|>",
    "a <|endoftext|> b<|startoftext|>c",
    "<|ENDOFTEXT|> <|StartOfText|> < |endoftext|>",
    "<|endoftext|<|endoftext|>|>",
    "!",
    "hello!",
    "wow!!! so! many!marks !?! ?!",
    "¡hola! ！fullwidth",
    "!\u0338 not \u226f",
    "snake_case camelCase kebab-case dotted.name C++ C# .NET",
    "https://example.org/a?b=c&d=%20#e user@example.org",
    "#hashtag @mention $100 50% 3×4 5÷6 ±7 ≤ ∞",
    "(((brackets))) [[square]] {{curly}} <<angle>>",
    "back\\slash \\( \\) /slash | pipe ~ ` ^",
    "a,b;c:d.e?f!g-h_i=j+k*l",
    "----- ===== ***** ......",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "thethethethe ththth zxqj qqqq xyzzy",
    "word " * 80,
    "masterpiece, best quality, ultra-detailed, cinematic lighting, volumetric fog, octane render, trending on artstation",
    "The quick brown fox jumps over the lazy dog; THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG.",
    "🎉" * 120,
    "é" * 60 + "É" * 60,
    "\u0301\u0301\u0301 lonely marks \u20dd",
]

SYNTAX = [
    "",
    "plain words, no brackets",
    "(x)",
    "((x))",
    "(((x)))",
    "(x:1.5)",
    "(x: 0.8)",
    "(x :0.8)",
    "(x : 0.8 )",
    "(x:.5) (x:2.) (x:2) (x:+1.5) (x:-0.5) (x:0)",
    "(x:abc)",
    "(x:)",
    "(x:1.5.2)",
    "(x:1e3)",
    "(x:--1)",
    "(a:b:1.3)",
    "(a:1:2)",
    "a (b (c:1.5) d:2) e",
    "((a:1.5) b)",
    "((a):1.5)",
    "()",
    "a()b",
    "(())",
    "(:1.5)",
    "( )",
    "a (b",
    "a b)",
    "a) b (c",
    ")(",
    "((x)",
    "(x))",
    "(x:1.5",
    "x:1.5)",
    "[x] [[y]] [z:0.5]",
    "[(x)]",
    "([x])",
    "(x]",
    "\\(x\\)",
    "\\(x:1.5\\)",
    "(x\\))",
    "(x\\):1.5)",
    "(\\(x\\):1.5)",
    "(x:1\\(.5)",
    "\\\\(x\\\\)",
    "(x\\:1.5)",
    "a\\b \\n \\",
    "(\\)",
    "smile :) frown :( wink ;) (: ):",
    "a red (apple:1.3) on a ((light)) blue (background: 0.7)",
    "(red)(car)",
    "sun(flower)s",
    "(日本:1.2) (😀) (é)",
    "(" * 60 + "x" + ")" * 60,
    "(" * 30 + "x" + ")" * 10,
    "(x:99999999999999)",
    "(x:0.00001)",
]

PROMPTS = [
    "",
    "a cat",
    "(a) (cat:1.5), wow!",
    "word " * 75,
    "word " * 76,
    "(word " * 80 + ")" * 80,
    "a (very long:1.2) story, " * 40,
    "a <|endoftext|> b",
]


def standard(pad: str) -> CLIPTokenizer:
    """OpenAI's vocabulary: bytes, bytes at a word's end, merges, two marks."""
    with gzip.open("models/clip/bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 49152 - 256 - 2 + 1]]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    tokens = symbols + [s + "</w>" for s in symbols] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        # As SDXL's own tokenizer files have it: marks are looked for after lower-casing, the padding as typed.
        bos_token=AddedToken("<|startoftext|>", normalized=True, special=True),
        eos_token=AddedToken("<|endoftext|>", normalized=True, special=True),
        unk_token=AddedToken("<|endoftext|>", normalized=True, special=True),
        pad_token=pad,
        model_max_length=77,
    )


def all_tokenizers() -> dict:
    return {
        "standard": standard("<|endoftext|>"),
        "standard2": standard("!"),
        "pocket": CLIPTokenizer.from_pretrained("test/golden/models/pocket", subfolder="tokenizer"),
        "pocket2": CLIPTokenizer.from_pretrained("test/golden/models/pocket", subfolder="tokenizer_2"),
    }


def random_syntax(count: int) -> list[str]:
    source = random.Random(SEED)
    parts = ["(", ")", "(", ")", "\\(", "\\)", "\\", "[", "]", ":", "1", ".5", "-", " ", "a", "b ", ":1.2)", ": 0.9)"]
    return ["".join(source.choices(parts, k=source.randint(1, 24))) for _ in range(count)]


def weighted_states() -> list[dict]:
    """Random states (2, 77, 5) of a seed, every chunk with its own weights; kept as a hash, since fp32 must agree exactly."""
    rows = []
    for seed in (1, 2):
        states = torch.randn((2, 77, 5), generator=torch.Generator("cpu").manual_seed(seed))
        source = random.Random(seed)
        weights = [[source.choice([1.0, 1.0, 1.1, 1.1 * 1.1, 0.8, 0.0, -0.5, 3.0]) for _ in range(77)] for _ in range(2)]
        out = torch.cat([prompt_embeds.apply_weights(states[i : i + 1], torch.tensor(weights[i])) for i in range(2)])
        rows.append({"seed": seed, "weights": weights, "sha256": hashlib.sha256(out.numpy().tobytes()).hexdigest()})
    return rows


def check_against_pipeline() -> None:
    """Plain short prompts must be exactly what encode_prompt gives."""
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained("test/golden/models/pocket", dtype=torch.float32)
    trials = [
        {"prompt": "a red apple on a light blue background"},
        {"prompt": "wow! two prompts", "prompt_2": "the second, it's different"},
        {"prompt": "a cat", "negative_prompt": "blurry, dark!"},
        {"prompt": "a cat", "negative_prompt": ""},
        {"prompt": "a cat", "negative_prompt": "dog", "negative_prompt_2": "bird", "clip_skip": 1},
        {"prompt": ""},
    ]
    for trial in trials:
        wanted = pipe.encode_prompt(**trial)
        got = prompt_embeds.encode_pair(pipe, **trial)
        assert all(torch.equal(a, b) for a, b in zip(wanted, got)), trial
    long, pooled = prompt_embeds.encode(pipe, "a (very long:1.2) story, " * 40)
    assert long.shape[1] > 77 and long.shape[1] % 77 == 0 and pooled.shape[0] == 1


def main() -> None:
    tokenizers_by_name = all_tokenizers()
    syntax = SYNTAX + random_syntax(200)
    check_against_pipeline()
    golden = {
        "tokens": [
            {"text": text, **{n: t(text, add_special_tokens=False).input_ids for n, t in tokenizers_by_name.items()}} for text in TEXTS
        ],
        "syntax": [{"text": text, "segments": prompt_embeds.parse(text)} for text in syntax],
        "chunks": [
            {
                "text": text,
                **{n: [{"ids": i, "weights": w} for i, w in prompt_embeds.chunk(tokenizers_by_name[n], text)] for n in ("pocket", "pocket2")},
            }
            for text in PROMPTS
        ],
        "weighted": weighted_states(),
    }
    folder = Path("test/golden/prompts")
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in golden.items():
        lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
        (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    (folder / "PROVENANCE.md").write_text(
        "# Prompts\n\n"
        "Made by `python tools/reference/prompts.py` with "
        f"Python {platform.python_version()}, torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}, "
        f"tokenizers {tokenizers.__version__}, diffusers {diffusers.__version__}.\n"
        f"tokens.json: transformers' CLIPTokenizer. The rest: tools/reference/prompt_embeds.py, an implementation of its own. Random syntax: seed {SEED}.\n"
    )


main()
