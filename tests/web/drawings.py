"""Digits as a person might draw them, written by a program: 29 ways, each shaken and slanted.

    python -m tests.web.drawings

prints how many of each the demo's network reads.
"""

import numpy as np

from tests.web import scores
from tests.web.opened import opened

COUNT = 30  # of each way; the first is as it stands here
PARTS = 10  # points between two of those below
# Strokes of each way, by digit: x,y in hundredths of the paper; sharp ones begin with "/".
WAYS = {
    0: ("50,5 20,20 12,50 20,80 50,95 80,80 88,50 80,20 50,5",
        "60,5 35,15 28,50 35,85 52,95 68,80 75,50 70,20 55,6",
        "60,8 20,15 5,50 25,88 55,92 90,70 95,40 75,12 50,5"),
    1: ("/50,5 50,95", "/30,25 55,5 55,95", "/60,5 45,95", "/30,28 52,5 52,95|/30,95 75,95"),
    2: ("18,28 30,8 55,5 78,20 75,42 50,65 18,93|/18,93 85,93",
        "20,20 45,5 75,15 72,40 45,70 20,92 20,92 50,88 85,92",
        "15,25 35,8 65,8 80,25 70,48 40,75 15,90 20,80 35,82 60,95 88,85"),
    3: ("20,15 50,4 78,18 72,38 45,48 45,48 80,58 82,82 50,96 18,85",
        "/20,8 78,8 48,42|48,42 78,50 82,78 52,96 18,86",
        "25,12 55,5 70,22 60,40 45,47 68,50 80,70 65,92 25,92"),
    4: ("/40,5 12,62 88,62|/65,35 65,95", "/70,5 12,65 90,65|/70,5 70,95",
        "/22,5 18,50 78,50|/75,5 75,95"),
    5: ("/78,8 28,8 24,45|24,45 50,36 80,52 78,82 50,95 18,86",
        "/30,8 26,45|26,45 55,38 80,58 72,88 45,96 18,86|/30,8 80,8",
        "80,6 50,8 32,8 28,30 25,45 45,40 72,48 78,72 60,92 20,92"),
    6: ("70,6 40,25 20,60 28,88 55,95 78,78 68,58 45,56 24,72",
        "55,4 30,35 22,70 35,93 62,92 76,72 60,55 38,58 25,72"),
    7: ("/15,8 85,8 42,95", "/15,10 82,8 40,95|/30,50 78,50", "/15,22 15,8 82,8 55,50 48,95"),
    8: ("72,18 50,5 28,18 32,38 55,50 78,68 70,92 42,95 22,78 35,58 62,42 74,22 68,12",
        "50,50 25,38 28,12 52,5 75,15 72,38 50,50 25,65 25,88 50,96 76,86 76,64 50,50"),
    9: ("75,20 52,5 28,18 28,40 50,50 74,35 76,18|76,18 76,50 68,80 60,96",
        "74,15 45,6 25,25 35,48 62,44 75,18 75,18 74,60 60,90 28,92",
        "72,12 40,8 28,30 45,48 72,30|/74,10 74,95"),
}  # fmt: skip


def draw(way, generator):
    """Strokes of one drawing, each an array of points; without a generator, unshaken."""
    strokes = []
    for text in way.split("|"):
        points = np.array([p.split(",") for p in text.strip("/").split()], float) - 50
        if generator:
            points += generator.normal(scale=3.5, size=points.shape)
        strokes.append(_straight(points) if text[0] == "/" else _spline(points))
    if generator is None:
        return strokes
    stretch, slant, turn = generator.normal(scale=(0.2, 0.12, 0.08))
    shape = np.array([[np.exp(stretch), -slant], [0, 1]])
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return [stroke @ (rotation @ shape).T for stroke in strokes]


def _straight(points):
    places = np.linspace(0, len(points) - 1, PARTS * (len(points) - 1) + 1)
    return np.stack([np.interp(places, range(len(points)), axis) for axis in points.T], axis=1)


def _spline(points):
    """Catmull-Rom."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    t = np.linspace(0, 1, PARTS, endpoint=False)[:, None]
    found = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        slopes = -a + c, 2 * a - 5 * b + 4 * c - d, -a + 3 * b - 3 * c + d
        found.append(b + (slopes[0] * t + slopes[1] * t**2 + slopes[2] * t**3) / 2)
    return np.concatenate([*found, points[-1:]])


def read(page, score):
    """Returns {(digit, way): share of its drawings that `score` reads} on an open demo page."""
    found = {}
    for digit, ways in WAYS.items():
        for number, way in enumerate(ways):
            generator = np.random.default_rng(number)
            drawn = [draw(way, generator if n else None) for n in range(COUNT)]
            listed = [[np.round(s, 2).tolist() for s in strokes] for strokes in drawn]
            script = "import('./strokes.js').then(({toImage}) => %s.map((s) => [...toImage(s)]))"
            images = np.array(page.evaluate(script % listed), np.float32)
            best = [score(image).argmax() for image in images]
            found[digit, number] = np.mean(np.array(best) == digit)
    return found


def main():
    with opened("Nothing was drawn") as (page, _, site):
        shares = read(page, scores.scorer((site / "model.tflite").read_bytes()))
    print("| way | read |\n|---|---|")
    for (digit, number), share in shares.items():
        print(f"| {digit}, {WAYS[digit][number]} | {share:.2f} |")
    print(f"| all | {np.mean(list(shares.values())):.3f} |")


if __name__ == "__main__":
    main()
