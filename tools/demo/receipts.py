"""Synthetic receipts: what one says (`draw_receipt`) and what it looks like (`render`).

Called by make_data.py. Everything follows from the random generator passed in. The fonts come from
the Debian packages README.md names; they are needed only to make data.
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vocabulary import ADJECTIVES, NOUNS, SHOPS

PATCH = 14  # pixels of a vision patch; a merged token covers 2 x 2 of them
TOKEN = 2 * PATCH
SLOT_HEIGHT, SLOT_WIDTH = 14, 7  # one slot of the auxiliary target holds about one character
FONTS = Path("/usr/share/fonts/truetype")


@dataclass(frozen=True)
class Level:
    """How hard receipts are to read; ranges are (low, high)."""

    fonts: tuple
    size: tuple  # font size in pixels
    pitch: tuple  # line distance in pixels
    ink: tuple
    paper: tuple
    noise: float  # largest standard deviation in grey levels
    rotation: float  # largest angle in degrees
    shift: float  # largest empty strip above the first line
    trim: int  # the sides may fall short of whole tokens by fewer than this many pixels
    layouts: bool  # header, rule and two column orders, or none of these


MONO = ("dejavu/DejaVuSansMono.ttf",)
COMMON = MONO + (
    "dejavu/DejaVuSansMono-Bold.ttf",
    "dejavu/DejaVuSansMono-Oblique.ttf",
    "dejavu/DejaVuSansCondensed.ttf",
    "liberation/LiberationMono-Regular.ttf",
    "liberation/LiberationMono-Bold.ttf",
)
WIDE = COMMON + (
    "dejavu/DejaVuSansMono-BoldOblique.ttf",
    "dejavu/DejaVuSansCondensed-Bold.ttf",
    "dejavu/DejaVuSerifCondensed.ttf",
    "liberation/LiberationMono-Italic.ttf",
    "liberation/LiberationSans-Regular.ttf",
    "liberation/LiberationSansNarrow-Bold.ttf",
    "freefont/FreeMonoBold.ttf",
    "freefont/FreeSans.ttf",
)
LEVELS = (
    Level(MONO, (14, 14), (28, 28), (20, 20), (240, 240), 0, 0, 7, 1, False),
    Level(COMMON, (13, 15), (20, 28), (0, 80), (200, 255), 6, 0.7, 16, 14, True),
    Level(WIDE, (12, 16), (18, 30), (0, 100), (180, 255), 10, 1.5, 40, 20, True),
)
# Merged tokens a side: about 155 to 224 pixels wide, 155 to 252 high.
GRID_ROWS, GRID_COLS = (6, 9), (6, 8)


@dataclass(frozen=True)
class Receipt:
    shop: str | None
    items: tuple  # of (count, name, price), as printed
    subtotal: str | None
    tax: str | None
    total: str
    count_first: bool  # "2 Iced Tea 5.00", else "Iced Tea 2 5.00"
    ruled: bool  # a line above the sums

    @property
    def split(self):
        """test, train or pretrain, from the content alone: no receipt can be in two of them."""
        digest = hashlib.sha256(repr((self.items, self.total)).encode()).digest()
        return ("test", "train")[digest[0] % 8] if digest[0] % 8 < 2 else "pretrain"

    def lines(self):
        """Each line's (left, middle, right) column; absent ones are empty."""
        rows = [(self.shop, "", "")] if self.shop else []
        for count, name, price in self.items:
            rows.append(
                (f"{count} {name}", "", price) if self.count_first else (name, count, price)
            )
        sums = (("SUBTOTAL", self.subtotal), ("TAX", self.tax), ("TOTAL", self.total))
        return rows + [(label, "", value) for label, value in sums if value]


def money(cents):
    return f"{cents // 100}.{cents % 100:02d}"


def draw_receipt(rng, level, rows, cols, split):
    """A receipt of `split` that fits an image of rows x cols merged tokens at `level`."""
    layouts = LEVELS[level].layouts
    longest = 11 if cols == GRID_COLS[0] else 13
    # Lines that fit at the narrowest pitch, less the largest trim and a small margin.
    room = (rows * TOKEN - LEVELS[level].trim - 6) // LEVELS[level].pitch[0]
    while True:
        shop = (
            f"{rng.choice(ADJECTIVES)} {rng.choice(SHOPS)}"
            if layouts and rng.random() < 0.5
            else None
        )
        subtotal = rng.random() < 0.6
        tax = subtotal and rng.random() < 0.6
        most = min(4 + layouts, room - (shop is not None) - subtotal - tax - 1)
        items, cents = [], 0
        for _ in range(rng.randint(1, most)):
            name = None
            while name is None or len(name) > longest:
                name = rng.choice(NOUNS)
                if rng.random() < 0.6:
                    name = f"{rng.choice(ADJECTIVES)} {name}"
            price = rng.randint(20, 1999) * 5
            cents += price
            items.append((str(rng.randint(1, 9)), name, money(price)))
        levy = (cents + 5) // 10 if tax else 0
        receipt = Receipt(
            shop,
            tuple(items),
            money(cents) if subtotal else None,
            money(levy) if tax else None,
            money(cents + levy),
            not layouts or rng.random() < 0.6,
            layouts and rng.random() < 0.3,
        )
        if receipt.split == split:
            return receipt


@lru_cache(maxsize=None)
def load_font(name, size):
    return ImageFont.truetype(str(FONTS / name), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=None)
def advance(name, size, text):
    return load_font(name, size).getlength(text)


@lru_cache(maxsize=None)
def noise_bank():
    """Normal noise, drawn once: fresh noise for every image would take most of the time."""
    return np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


def render(receipt, rng, level, rows, cols):
    """Draws `receipt` for a grid of rows x cols merged tokens.

    Returns pixels, uint8 [height, width] in 16 greys, and characters, uint8 [2 rows, 4 cols]: for
    each slot of 14 x 7 pixels of the image *as resized to 28 rows x 28 cols pixels* the printed
    character whose centre lies in it, as its code - 32, or 0.
    """
    look = LEVELS[level]
    height = rows * TOKEN - rng.randrange(look.trim)
    width = cols * TOKEN - rng.randrange(look.trim)
    lines = receipt.lines()
    font_name = rng.choice(look.fonts)
    margin = rng.uniform(3, 8)

    def line_width(line, size):
        return sum(advance(font_name, size, c) for c in " ".join(filter(None, line)))

    size = rng.randint(*look.size)
    while size > 11 and max(line_width(line, size) for line in lines) > width - 2 * margin:
        size -= 1
    pitch = rng.uniform(look.pitch[0], min(look.pitch[1], (height - 4) / len(lines)))
    if look.pitch[0] == look.pitch[1]:
        pitch = look.pitch[0]
    top = rng.uniform(0, max(0, min(look.shift, height - 2 - pitch * len(lines))))
    ink, paper = rng.randint(*look.ink), rng.randint(*look.paper)

    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    font = load_font(font_name, size)
    count_x = width - margin - advance(font_name, size, "0") * 8
    centres = []
    for i, (left, middle, right) in enumerate(lines):
        baseline = top + (i + 0.5) * pitch + 0.36 * size
        starts = [(margin, left)]
        if receipt.shop and i == 0:
            starts = [(max(margin, (width - line_width((left,), size)) / 2), left)]
        if middle:
            # The count's column, unless the name reaches into it.
            starts.append((max(count_x, margin + line_width((left, " "), size)), middle))
        if right:
            starts.append((width - margin - line_width((right,), size), right))
        for x, text in starts:
            draw.text((x, baseline), text, font=font, fill=ink, anchor="ls")
            for c in text:
                step = advance(font_name, size, c)
                if c != " ":
                    centres.append((x + step / 2, baseline - 0.36 * size, ord(c) - 32))
                x += step
    if receipt.ruled:
        above = len(lines) - 1 - (receipt.subtotal is not None) - (receipt.tax is not None)
        y = top + above * pitch
        draw.line((margin, y, width - margin, y), fill=ink)

    angle = rng.uniform(-look.rotation, look.rotation)
    if angle:
        image = image.rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=paper)
    pixels = np.asarray(image, dtype=np.float32)
    if look.noise:
        bank = noise_bank()
        start = rng.randrange(len(bank) - height * width)
        noise = bank[start : start + height * width].reshape(height, width)
        pixels = pixels + noise * np.float32(rng.uniform(0, look.noise))
    # 16 greys, as the committed images are 4-bit PNGs.
    pixels = np.rint(np.clip(pixels, 0, 255) / 17).astype(np.uint8) * 17

    characters = np.zeros((2 * rows, 4 * cols), np.uint8)
    # PIL turns counter-clockwise about the centre; y points down.
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for x, y, code in centres:
        dx, dy = x - width / 2, y - height / 2
        x, y = dx * cos + dy * sin + width / 2, -dx * sin + dy * cos + height / 2
        row = int(y * rows * TOKEN / height / SLOT_HEIGHT)
        col = int(x * cols * TOKEN / width / SLOT_WIDTH)
        if 0 <= row < 2 * rows and 0 <= col < 4 * cols:
            characters[row, col] = code
    return pixels, characters
