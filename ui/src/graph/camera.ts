// Panning and zooming, without a render: a drag moves one attribute.

const LEAST = 0.06;
const MOST = 2.5;
/** FAR and FARTHER are the scales below which small print, and then names, are left out. */
const FAR = 0.55;
const FARTHER = 0.22;

/** Camera moves a stage within a frame. Its user closes it. */
export class Camera {
  private x = 0;
  private y = 0;
  private k = 1;
  private touched = false;
  private size = { width: 0, height: 0 };
  private readonly stop = new AbortController();
  private readonly pointers = new Map<number, { x: number; y: number }>();
  private dragged = 0;
  private readonly sized: ResizeObserver;

  constructor(
    private readonly frame: HTMLElement,
    private readonly stage: SVGGElement,
  ) {
    const { signal } = this.stop;
    frame.addEventListener("wheel", (e) => this.wheel(e), { passive: false, signal });
    frame.addEventListener("pointerdown", (e) => this.down(e), { signal });
    frame.addEventListener("pointermove", (e) => this.move(e), { signal });
    for (const end of ["pointerup", "pointercancel"] as const) frame.addEventListener(end, (e) => this.pointers.delete(e.pointerId), { signal });
    frame.addEventListener("lostpointercapture", (e) => this.pointers.delete(e.pointerId), { signal });
    // A drag that ends on a node is no click on it.
    frame.addEventListener("click", (e) => this.dragged > 4 && e.preventDefault(), { capture: true, signal });
    frame.addEventListener("dragstart", (e) => e.preventDefault(), { signal });
    this.sized = new ResizeObserver(() => {
      if (!this.touched && this.size.width > 0) this.fit(this.size.width, this.size.height);
    });
    this.sized.observe(frame);
  }

  close(): void {
    this.stop.abort();
    this.sized.disconnect();
  }

  /** fit shows a whole of that size, unless somebody has chosen what to see. */
  fit(width: number, height: number, asked = false): void {
    this.size = { width, height };
    if (asked) this.touched = false;
    if (this.touched || width === 0 || height === 0) return;
    const { clientWidth: w, clientHeight: h } = this.frame;
    this.k = Math.max(LEAST, Math.min(1.2, (w - 32) / width, (h - 64) / height));
    this.x = (w - width * this.k) / 2;
    this.y = Math.max(12, (h - 36 - height * this.k) / 2);
    this.apply();
  }

  /** zoom changes the scale around the middle, or around a point of the frame. */
  zoom(by: number, px = this.frame.clientWidth / 2, py = this.frame.clientHeight / 2): void {
    const k = Math.max(LEAST, Math.min(MOST, this.k * by));
    this.x = px - ((px - this.x) * k) / this.k;
    this.y = py - ((py - this.y) * k) / this.k;
    this.k = k;
    this.touched = true;
    this.apply();
  }

  /** show brings a point of the stage into the frame, and makes it legible. */
  show(x: number, y: number): void {
    if (this.k < FAR) this.zoom(0.8 / this.k);
    const { clientWidth: w, clientHeight: h } = this.frame;
    const sx = x * this.k + this.x;
    const sy = y * this.k + this.y;
    const edge = 130;
    if (sx < edge || sx > w - edge) this.x += w / 2 - sx;
    if (sy < 70 || sy > h - 70) this.y += h / 2 - sy;
    this.touched = true;
    this.apply();
  }

  private apply(): void {
    this.stage.setAttribute("transform", `translate(${this.x.toFixed(1)} ${this.y.toFixed(1)}) scale(${this.k.toFixed(4)})`);
    this.frame.classList.toggle("far", this.k < FAR);
    this.frame.classList.toggle("farther", this.k < FARTHER);
  }

  private wheel(e: WheelEvent): void {
    e.preventDefault();
    const box = this.frame.getBoundingClientRect();
    const unit = e.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.zoom(Math.exp(-e.deltaY * unit * 0.0016), e.clientX - box.left, e.clientY - box.top);
  }

  private down(e: PointerEvent): void {
    if (e.button !== 0 || (e.target as Element).closest(".zoom")) return;
    this.pointers.set(e.pointerId, { x: e.clientX, y: e.clientY });
    this.dragged = 0;
  }

  private move(e: PointerEvent): void {
    const before = this.pointers.get(e.pointerId);
    if (!before) return;
    const now = { x: e.clientX, y: e.clientY };
    const other = [...this.pointers].find(([id]) => id !== e.pointerId)?.[1];
    this.dragged += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    // Captured only once it is a drag: a captured click reaches no link.
    if (this.dragged > 4 && !this.frame.hasPointerCapture(e.pointerId)) this.frame.setPointerCapture(e.pointerId);
    if (other) {
      const box = this.frame.getBoundingClientRect();
      const far = Math.hypot(before.x - other.x, before.y - other.y) || 1;
      this.zoom(Math.hypot(now.x - other.x, now.y - other.y) / far, (now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top);
    } else {
      this.x += now.x - before.x;
      this.y += now.y - before.y;
      this.touched = true;
      this.apply();
    }
    this.pointers.set(e.pointerId, now);
  }
}
