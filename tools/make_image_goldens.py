#!/usr/bin/env python3
"""Makes tests/image/golden: small odd pictures, and what transformers' PixtralImageProcessor makes of them.

The processor needs torchvision, which is not among the pinned wheels:

    .venv/bin/pip install --no-deps --target=/tmp/torchvision torchvision==0.28.0
    PYTHONPATH=/tmp/torchvision .venv/bin/python tools/make_image_goldens.py

goldens.json holds for each picture the grid and the SHA-1 of two CHW tensors: the decoded uint8 RGB (Pillow) and the
float32 pixel_values (the processor). grids.json holds rows of [height, width, longest_edge, target height, width].
"""

import hashlib
import io
import json
import random
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

# The wheel's compiled part wants the CUDA build of torch. Its Python part, all that is used here, only asks that these
# two operators are declared.
declared = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    declared.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision.transforms.v2 import functional as tvF  # noqa: E402
from transformers.image_transforms import convert_to_rgb  # noqa: E402
from transformers.models.pixtral.image_processing_pixtral import (  # noqa: E402
    PixtralImageProcessor,
    get_resize_output_image_size,
)

OUT = Path(__file__).resolve().parent.parent / "tests" / "image" / "golden"
PATCH = 28
rng = np.random.default_rng(20)
entries: list[dict] = []
processor = PixtralImageProcessor()


# ---- pictures ----------------------------------------------------------------------------------------------------


def scene(height: int, width: int, channels: int = 3, top: int = 255) -> np.ndarray:
    """A gradient, hard edges and noise: smooth and rough parts, values up to both ends."""
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for c in range(channels):
        plane = (x * (c + 2) * 5 + y * (4 - c) * 3) % (top + 1)
        noisy = rng.integers(0, top + 1, (height, width))
        plane = np.where((x // 7 + y // 5) % 3 == 0, noisy, plane)
        planes.append(np.where((x + y) % 23 == c, top, plane))
    return np.stack(planes, -1)


def rgb(height: int, width: int) -> Image.Image:
    return Image.fromarray(scene(height, width).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int, big_endian: bool = False) -> bytes:
    order = ">" if big_endian else "<"
    block = (b"MM" if big_endian else b"II") + struct.pack(order + "HI", 42, 8)
    # A tag before the one that counts, so that the directory is walked.
    entries = struct.pack(order + "HHII", 0x0100, 4, 1, 99)
    entries += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0" + block + struct.pack(order + "H", 2) + entries + struct.pack(order + "I", 0)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_rows(samples: np.ndarray, depth: int) -> bytes:
    """[H, W, samples] to PNG scan lines without filters."""
    rows = []
    for row in samples.reshape(samples.shape[0], -1):
        if depth == 16:
            data = row.astype(">u2").tobytes()
        else:
            bits = (row.astype(np.uint8)[:, None] >> np.arange(depth - 1, -1, -1)) & 1
            data = np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
        rows.append(b"\0" + data)
    return b"".join(rows)


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples, depth: int, colour: int, before=(), after=(), interlaced: bool = False) -> bytes:
    """Every kind of PNG, also those that Pillow cannot write. `colour` is the PNG colour type."""
    samples = samples if samples.ndim == 3 else samples[..., None]
    height, width = samples.shape[:2]
    if interlaced:
        passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        data = b"".join(pack_rows(p, depth) for p in passes if p.size)
    else:
        data = pack_rows(samples, depth)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(data, 9)), *after]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


GREY, RGB, INDEXED, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def trns(*values: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


def palette(count: int) -> bytes:
    return chunk(b"PLTE", rng.integers(0, 256, count * 3).astype(np.uint8).tobytes())


# ---- references ----------------------------------------------------------------------------------------------------


def sha1(array: np.ndarray) -> str:
    return hashlib.sha1(np.ascontiguousarray(array).tobytes()).hexdigest()


def add(name: str, data: bytes, longest_edge: int = 1540, apply_exif: bool = True) -> None:
    (OUT / name).write_bytes(data)
    image = Image.open(io.BytesIO(data))
    image.load()
    if apply_exif:
        image = ImageOps.exif_transpose(image)
    pixels = torch.from_numpy(convert_to_rgb(image, return_numpy=True)).permute(2, 0, 1).contiguous()
    target = get_resize_output_image_size(pixels, longest_edge, PATCH, input_data_format="channels_first")
    if 0 in target:
        # The processor fails when a side shrinks to nothing; one pixel is kept, which becomes one patch.
        target = tuple(max(side, PATCH) for side in target)
        batch = processor(images=[tvF.resize(pixels, list(target), tvF.InterpolationMode.BICUBIC, antialias=True)],
                          do_resize=False, return_tensors="pt")
    else:
        batch = processor(images=[image], patch_size=PATCH, size={"longest_edge": longest_edge}, return_tensors="pt")
    values = batch["pixel_values"][0]
    assert values.dtype == torch.float32 and tuple(values.shape) == (3, *target)
    rows, cols = target[0] // PATCH, target[1] // PATCH
    entries.append(
        {
            "file": name,
            "apply_exif": apply_exif,
            "longest_edge": longest_edge,
            "source": list(pixels.shape[1:]),
            "grid": [*target, rows, cols, rows * (cols + 1)],
            "rgb_sha1": sha1(pixels.numpy()),
            "pixel_values_sha1": sha1(values.numpy()),
        }
    )


def make_jpegs() -> None:
    add("444.jpg", saved(rgb(61, 47), "JPEG", quality=90, subsampling=0))
    add("420.jpg", saved(rgb(97, 131), "JPEG", quality=75, subsampling=2), longest_edge=84)
    add("422.jpg", saved(rgb(33, 50), "JPEG", quality=60, subsampling=1, restart_marker_blocks=2))
    add("grey.jpg", saved(rgb(40, 53).convert("L"), "JPEG"))
    add("progressive.jpg", saved(rgb(75, 64), "JPEG", progressive=True, quality=30), longest_edge=56)
    add("rgb.jpg", saved(rgb(30, 31), "JPEG", keep_rgb=True))
    cmyk = saved(Image.fromarray(scene(29, 36, 4).astype(np.uint8), "CMYK"), "JPEG")
    add("cmyk.jpg", cmyk)
    adobe = cmyk.index(b"\xff\xee\x00\x0eAdobe")
    assert cmyk[adobe + 15] == 0  # the colour transform
    add("ycck.jpg", cmyk[: adobe + 15] + b"\x02" + cmyk[adobe + 16 :])
    add("cmyk_without_marker.jpg", cmyk[:adobe] + cmyk[adobe + 16 :])
    upright = rgb(24, 39)
    for orientation in range(2, 9):
        data = saved(upright, "JPEG", quality=95, exif=exif(orientation, big_endian=orientation % 2 == 0))
        add(f"exif{orientation}.jpg", data)
    add("exif6.jpg", (OUT / "exif6.jpg").read_bytes(), apply_exif=False)
    add("exif9.jpg", saved(upright, "JPEG", exif=exif(9)))
    add("xmp8.jpg", saved(upright, "JPEG", xmp=XMP))


def make_pngs() -> None:
    for depth in (1, 2, 4, 8, 16):
        add(f"grey{depth}.png", png(scene(19, 37, 1, 2**depth - 1), depth, GREY))
    low = np.concatenate([np.arange(512).reshape(16, 32), scene(16, 32, 1, 65535)[..., 0]])
    add("grey16_low.png", png(low, 16, GREY))
    add("grey16_trns.png", png(low, 16, GREY, before=[trns(0x0134)]))
    add("grey1_trns.png", png(scene(19, 37, 1, 1), 1, GREY, before=[trns(1)]))
    add("grey2_trns.png", png(scene(19, 37, 1, 3), 2, GREY, before=[trns(3)]))
    add("grey4_trns.png", png(scene(19, 37, 1, 15), 4, GREY, before=[trns(0)]))
    add("grey8_trns.png", png(scene(19, 37, 1), 8, GREY, before=[trns(255)]))
    add("grey_alpha8.png", png(scene(31, 30, 2), 8, GREY_ALPHA))
    add("grey_alpha16.png", png(scene(31, 30, 2, 65535), 16, GREY_ALPHA))
    for depth in (1, 2, 4, 8):
        indices = scene(21, 43, 1, 2**depth - 1)
        add(f"indexed{depth}.png", png(indices, depth, INDEXED, before=[palette(2**depth)]))
    indices = scene(21, 43, 1, 99)
    alphas = chunk(b"tRNS", bytes(range(0, 180, 3)))
    add("indexed_trns.png", png(indices, 8, INDEXED, before=[palette(100), alphas]))
    one = chunk(b"tRNS", bytes([255, 255, 0, 255]))
    add("indexed4_trns.png", png(scene(21, 43, 1, 15), 4, INDEXED, before=[palette(16), one]))
    add("indexed_beyond.png", png(indices, 8, INDEXED, before=[palette(40)]))
    add("rgb8.png", png(scene(70, 52), 8, RGB), longest_edge=56)
    add("rgb16.png", png(scene(27, 41, 3, 65535), 16, RGB))
    few = scene(27, 41, 3, 3) * 80
    add("rgb8_trns.png", png(few, 8, RGB, before=[trns(80, 240, 160)]))
    add("rgb16_trns.png", png(few * 257, 16, RGB, before=[trns(80 * 257, 240 * 257, 160 * 257)]))
    add("rgba8.png", png(scene(57, 58, 4), 8, RGBA))
    add("rgba16.png", png(scene(20, 33, 4, 65535), 16, RGBA))
    add("rgba_interlaced.png", png(scene(37, 29, 4), 8, RGBA, interlaced=True))
    add("grey1_interlaced.png", png(scene(37, 29, 1, 1), 1, GREY, interlaced=True))
    add("exif6.png", png(scene(20, 33), 8, RGB, before=[chunk(b"eXIf", exif(6)[6:])]))
    add("exif5_after.png", png(scene(20, 33), 8, RGB, after=[chunk(b"eXIf", exif(5)[6:])]))
    xmp = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    add("xmp8.png", png(scene(20, 33), 8, RGB, before=[xmp]))
    animated = io.BytesIO()
    frames = [rgb(30, 30), rgb(30, 30)]
    frames[0].save(animated, "PNG", save_all=True, append_images=frames[1:], duration=100)
    add("animated.png", animated.getvalue())
    add("one_pixel.png", png(np.array([[[200, 100, 50]]]), 8, RGB))
    add("exact_28x56.png", png(scene(28, 56), 8, RGB))
    add("29x29.png", png(scene(29, 29), 8, RGB))
    add("1x1700.png", png(scene(1, 1700), 8, RGB))
    # The real longest edge, and a picture that compresses: coarse steps in both directions.
    y, x = np.mgrid[0:311, 0:2044]
    wide = np.stack([(x // 9) % 256, (y // 4 * 6) % 256, (x // 37 + y // 11) % 2 * 255], -1)
    add("wide.png", png(wide, 8, RGB))


def make_webps() -> None:
    add("lossy.webp", saved(rgb(67, 45), "WEBP", quality=70))
    add("lossless.webp", saved(rgb(43, 35), "WEBP", lossless=True))
    alpha = Image.fromarray(scene(31, 44, 4).astype(np.uint8))
    add("lossy_alpha.webp", saved(alpha, "WEBP", quality=60))
    add("lossless_alpha.webp", saved(alpha, "WEBP", lossless=True, exact=True))
    add("exif6.webp", saved(rgb(21, 34), "WEBP", quality=80, exif=exif(6)))
    add("xmp8.webp", saved(rgb(21, 34), "WEBP", quality=80, xmp=XMP))


def make_grids() -> list[list[int]]:
    # Written in the users' reports, where the quotient lands just below a whole number, and at the edges of a patch.
    sizes = [(675, 1080, 1540), (29, 29, 1540), (1700, 1540, 1000), (1971, 2044, 1540), (2044, 1971, 1540)]
    sizes += [(2520, 414, 1540), (414, 2520, 1540), (3388, 495, 1540), (495, 3388, 1540), (1, 1, 1540)]
    sizes += [(1540, 1540, 1540), (1541, 1540, 1540), (1539, 28, 1540), (28, 29, 1540), (56, 57, 1540)]
    draw = random.Random(5)
    while len(sizes) < 500:
        top = draw.choice((60, 900, 6000))
        size = draw.randint(1, top), draw.randint(1, top), draw.choice((1540, 1540, 1024, 1000, 768, 336))
        sizes.append(size)
    table = []
    for height, width, edge in sizes:
        shape = torch.empty(3, height, width, device="meta")
        target = get_resize_output_image_size(shape, edge, PATCH, input_data_format="channels_first")
        if 0 not in target:
            table.append([height, width, edge, *target])
    return table


def lines(rows: list) -> str:
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"


def main() -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    make_jpegs()
    make_pngs()
    make_webps()
    (OUT / "goldens.json").write_text(lines(entries))
    (OUT / "grids.json").write_text(lines(make_grids()))
    # Refused, so without references.
    frames = [rgb(20, 20), rgb(20, 20)]
    (OUT / "animated.webp").write_bytes(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    (OUT / "picture.gif").write_bytes(saved(rgb(9, 9), "GIF"))
    total = sum(f.stat().st_size for f in OUT.iterdir())
    print(f"{len(entries)} entries, {total} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
