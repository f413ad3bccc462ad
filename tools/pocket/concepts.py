"""Which things pocket learns: the tiers of 64, 150 and 300 concepts, in concepts.json.

A concept is a slug that every set with a style draws, from five categories of emoji. Concepts drawn by most sets of
sources.py come first, ties by name; nobody chooses. Where an animal has a face and a whole body, the face stands for it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from sources import SETS, STYLES, icons

TIERS = (64, 150, 300)
LIST = Path(__file__).with_name("concepts.json")
CATEGORIES = ("Animals & Nature", "Food & Drink", "Activities", "Objects", "Travel & Places")
# Clock faces and moons by the dozen, Japanese signs, card backs and map pins differ by a detail or mean nothing in English.
LEFT_OUT = re.compile(
    r"oclock|thirty|moon-|-moon|japanese|mahjong|joker|-suit|kaaba|shinto|stop-button|white-|-button$"
)
# Words people use beside Unicode's name; the first is what captions call it mostly.
WORDS = {
    "airplane": ["plane", "airplane"], "automobile": ["car", "red car"], "doughnut": ["donut", "doughnut"],
    "hot-beverage": ["cup of coffee", "coffee"], "high-voltage": ["lightning bolt", "lightning"],
    "ear-of-corn": ["ear of corn", "corn"], "red-apple": ["apple", "red apple"], "honeybee": ["bee", "honeybee"],
    "lady-beetle": ["ladybug", "lady beetle"], "sport-utility-vehicle": ["suv", "blue car"], "hamburger": ["burger", "hamburger"],
    "soft-ice-cream": ["ice cream cone", "soft ice cream"], "wrapped-gift": ["gift", "present"], "locked": ["lock", "padlock"],
    "video-game": ["game controller", "video game"], "mobile-phone": ["smartphone", "mobile phone"], "game-die": ["die", "dice"],
    "desktop-computer": ["computer", "desktop computer"], "soccer-ball": ["soccer ball", "football"],
    "optical-disk": ["disc", "optical disk"], "television": ["tv", "television"], "wastebasket": ["trash can", "wastebasket"],
    "musical-note": ["music note", "musical note"], "tangerine": ["orange fruit", "tangerine"], "potable-water": ["water tap"],
    "hourglass-done": ["hourglass"], "t-rex": ["dinosaur", "t-rex"], "evergreen-tree": ["fir tree", "evergreen tree"],
    "deciduous-tree": ["tree", "deciduous tree"], "graduation-cap": ["graduation cap"], "gem-stone": ["gem", "diamond"],
    "light-bulb": ["light bulb"], "sun-with-face": ["sun with a face"], "poultry-leg": ["chicken leg"], "bicycle": ["bicycle", "bike"],
    "globe-showing-europe-africa": ["globe", "planet earth"], "magnifying-glass-tilted-left": ["magnifying glass"],
    "rabbit-face": ["rabbit", "bunny"], "ship": ["ship"], "hatching-chick": ["hatching chick"], "fire": ["fire", "flame"],
}  # fmt: skip
# Concepts whose name takes no article: plurals, and what is not counted.
PLURAL = {"grapes", "cherries", "glasses", "sunglasses", "jeans", "gloves", "socks", "shorts", "scissors", "books", "chopsticks",
          "fireworks", "sparkles", "blueberries", "pancakes", "french fries", "roller skates", "dumplings", "bread"}  # fmt: skip


def words_of(slug: str) -> list[str]:
    """What captions call a concept, the usual word first."""
    return WORDS.get(slug) or [slug.removesuffix("-face").replace("-", " ")]


def spellings(slug: str) -> set[str]:
    """The names under which other sets may have the same thing."""
    words = {slug.removesuffix("-face"), *(w.replace(" ", "-") for w in words_of(slug))}
    return words | {w.replace("-", "") for w in words} | {slug}


def rank(state: Path) -> list[dict]:
    """All candidates, best first: [{"slug", "words", "sets"}]."""
    has: dict[str, Callable[[str], bool]] = {}
    for name in SETS:
        content = icons(state, name)
        known = set(content["icons"]) | set(content.get("aliases", {}))
        has[name] = known.__contains__
    categories = icons(state, "noto")["categories"]
    slugs = {s for c in CATEGORIES for s in categories[c] if all(has[name](s) for name in STYLES.values())}
    slugs = {s for s in slugs if not LEFT_OUT.search(s) and f"{s}-face" not in slugs}
    rows = [{"slug": s, "words": words_of(s), "sets": sum(any(map(has[n], spellings(s))) for n in SETS)} for s in slugs]
    return sorted(rows, key=lambda r: (-r["sets"], r["words"][0]))


def write(state: Path) -> None:
    """Write concepts.json with the first 300."""
    rows = rank(state)[: TIERS[-1]]
    # As the formatter of this project writes it.
    lines = ",\n".join("  { " + json.dumps(row)[1:-1] + " }" for row in rows)
    LIST.write_text(f"[\n{lines}\n]\n")
    print(f"{len(rows)} concepts → {LIST}")


def tier(count: int) -> list[dict]:
    """The first concepts of the committed list."""
    if count not in TIERS:
        raise SystemExit(f"--tier must be one of {TIERS}, got {count}")
    return json.loads(LIST.read_text())[:count]


def article(word: str) -> str:
    """a or an before a word, nothing before a plural or what is not counted."""
    if word in PLURAL:
        return word
    return f"{'an' if word[0] in 'aeiou' and not word.startswith(('uni', 'one')) else 'a'} {word}"
