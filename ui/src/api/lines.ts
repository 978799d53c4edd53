// Reading a stream of JSON lines. Pure but for the stream.

/** LONGEST is the longest line that is read, in letters; a longer one is a fault. */
export const LONGEST = 1 << 18;

/** Lines cuts text that comes in pieces into lines. */
export class Lines {
  private rest = "";

  /** take returns the lines that are complete now, without empty ones. */
  take(piece: string): string[] {
    const parts = (this.rest + piece).split("\n");
    this.rest = parts.pop() ?? "";
    if (this.rest.length > LONGEST) throw new Error("a line of the stream has no end");
    return parts.filter((l) => l.trim() !== "");
  }
}

/** readLines hands each JSON line to take until the stream ends. */
export async function readLines(body: ReadableStream<Uint8Array>, take: (value: unknown) => void): Promise<void> {
  const reader = body.getReader();
  const text = new TextDecoder();
  const lines = new Lines();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    for (const line of lines.take(text.decode(value, { stream: true }))) take(JSON.parse(line));
  }
}
