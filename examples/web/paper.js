// Paper to draw on with a mouse, a pen, a finger or the keyboard.

const PEN = 0.07; // width of the pen, of the paper's
const STEP = 0.05; // of an arrow key
const FINEST = 0.004; // a pointer's moves below that are no new point
const DIRECTIONS = {
  ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  Home: [-1, -1], PageUp: [1, -1], End: [-1, 1], PageDown: [1, 1],
};

/** Strokes on a square canvas; points are [x, y] from 0 to 1. */
export class Paper {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {{changed: function(), said: function(string)}} listeners `changed` after each change of
   *     the strokes, `said` with what a keyboard's user should hear.
   */
  constructor(canvas, {changed, said}) {
    this.canvas = canvas;
    this.changed = changed;
    this.said = said;
    this.strokes = [];
    this.pen = {at: [0.5, 0.2], isDown: false, pointer: null};
    this.held = new Set();
    this.listenToPointers();
    this.listenToKeys();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** Replaces what is drawn. */
  set(strokes) {
    this.strokes = strokes;
    this.pen.isDown = false;
    this.pen.pointer = null;
    this.update();
  }

  undo() {
    this.set(this.strokes.slice(0, -1));
  }

  clear() {
    this.set([]);
  }

  update() {
    this.draw();
    this.changed();
  }

  listenToPointers() {
    const {canvas, pen} = this;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || pen.pointer !== null) return;
      pen.pointer = event.pointerId;
      pen.isDown = false;
      canvas.setPointerCapture(event.pointerId);
      this.strokes.push([this.place(event)]);
      this.update();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== pen.pointer) return;
      const events = event.getCoalescedEvents?.() ?? [];
      const stroke = this.strokes.at(-1);
      for (const each of events.length ? events : [event]) {
        const [x, y] = stroke.at(-1), place = this.place(each);
        if (Math.hypot(place[0] - x, place[1] - y) >= FINEST) stroke.push(place);
      }
      this.update();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        if (event.pointerId === pen.pointer) pen.pointer = null;
      });
    }
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    this.pen.at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return this.pen.at;
  }

  listenToKeys() {
    const {canvas, held} = this;
    canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in DIRECTIONS) {
        held.add(event.key);
        this.move();
      } else if (event.key === " ") {
        if (!event.repeat) this.lower();
      } else if (event.key === "Backspace") {
        this.undo();
        this.said("Last stroke taken back");
      } else if (event.key === "Delete") {
        this.clear();
        this.said("Paper cleared");
      } else {
        return;
      }
      event.preventDefault();
    });
    canvas.addEventListener("keyup", (event) => held.delete(event.key));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => {
      held.clear();
      this.pen.isDown = false;
      this.draw();
    });
  }

  lower() {
    this.pen.isDown = !this.pen.isDown;
    if (this.pen.isDown) this.strokes.push([this.pen.at]);
    this.said(this.pen.isDown ? "Pen down" : "Pen up");
    this.update();
  }

  move() {
    const sum = (i) => Math.sign([...this.held].reduce((s, key) => s + DIRECTIONS[key][i], 0));
    const limit = (value) => Math.min(Math.max(value, STEP), 1 - STEP);
    this.pen.at = this.pen.at.map((value, i) => limit(value + STEP * sum(i)));
    if (this.pen.isDown) this.strokes.at(-1).push(this.pen.at);
    this.update();
  }

  draw() {
    const {canvas} = this;
    const size = Math.round(canvas.clientWidth * devicePixelRatio);
    if (size === 0) return;
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const style = getComputedStyle(document.documentElement);
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    this.drawRules(context, size, style.getPropertyValue("--rule"));
    Object.assign(context, {
      lineCap: "round", lineJoin: "round", lineWidth: PEN * size,
      strokeStyle: style.getPropertyValue("--ink"),
    });
    for (const stroke of this.strokes) {
      context.beginPath();
      context.moveTo(size * stroke[0][0], size * stroke[0][1]);
      for (const [x, y] of stroke) context.lineTo(size * x, size * y);
      context.stroke();
    }
    if (canvas.matches(":focus-visible")) {
      this.drawPen(context, size, style.getPropertyValue("--plus"));
    }
  }

  drawRules(context, size, colour) {
    context.strokeStyle = colour;
    context.lineWidth = devicePixelRatio;
    context.beginPath();
    for (const y of [0.12, 0.88]) {
      context.moveTo(0.06 * size, y * size);
      context.lineTo(0.94 * size, y * size);
    }
    context.stroke();
  }

  /** Where the pen is: a ring, or a disc while it is down. */
  drawPen(context, size, colour) {
    const [x, y] = this.pen.at;
    context.beginPath();
    context.arc(size * x, size * y, 0.5 * PEN * size, 0, 2 * Math.PI);
    context.lineWidth = 2 * devicePixelRatio;
    context.strokeStyle = context.fillStyle = colour;
    if (this.pen.isDown) context.fill();
    context.stroke();
  }
}
