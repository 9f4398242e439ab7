"""How much the texts of a page stand out from what is behind them."""

# Each text that shows, with its colour and the first background behind it that is not transparent.
COLOURS = """
(() => {
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    const isShown = element.checkVisibility() && !element.closest(".unseen, script, [disabled]");
    if (!text || !isShown) continue;
    const background = (each) => getComputedStyle(each).backgroundColor;
    let behind = element;
    while (background(behind) === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
    found[text] = [getComputedStyle(element).color, background(behind)];
  }
  return found;
})()
"""

# The colours of edges, bars and weights, and what is behind them.
SHAPES = """
(() => {
  const probe = document.body.appendChild(document.createElement("i"));
  const value = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const found = ["edge", "plus", "minus", "soft"].map((name) => [name, value(name), value("card")]);
  probe.remove();
  return found;
})()
"""


def measure_shapes(browser):
    """Returns {name: contrast ratio} of what is no text."""
    return {name: ratio(*pair) for name, *pair in browser.evaluate(SHAPES)}


def measure(browser):
    """Returns {text: contrast ratio from 1 to 21}, as WCAG 2.2 defines it."""
    return {text: ratio(*pair) for text, pair in browser.evaluate(COLOURS).items()}


def ratio(first, second):
    darker, lighter = sorted(_luminance(colour) for colour in (first, second))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour):
    """Of a colour such as "rgb(27, 31, 36)"."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")]
    red, green, blue = (x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
