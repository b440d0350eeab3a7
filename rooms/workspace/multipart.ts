/** Why a body is not taken. Its message is written for the client. */
export class MultipartError extends Error {
  override readonly name = "MultipartError";
}

export interface FileLimits {
  /** Bytes the file may have. */
  limitBytes: number;
  /** How many of its first bytes `checkHead` sees, as soon as they are there. */
  headBytes: number;
  /** Refuses by throwing a {@link MultipartError}. */
  checkHead(head: Uint8Array): void;
}

/** Bytes that the headers of a part, and the fields that are not asked for, may have. */
const HEADER_BYTES = 8 * 1024;
const OTHER_BYTES = 16 * 1024;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

function indexOf(bytes: Uint8Array, needle: Uint8Array): number {
  const [first = 0] = needle;
  for (let at = bytes.indexOf(first); at !== -1; at = bytes.indexOf(first, at + 1)) {
    let matched = 1;
    while (matched < needle.length && bytes[at + matched] === needle[matched]) matched++;
    if (matched === needle.length) return at;
  }
  return -1;
}

function concat(parts: Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A body as pieces between marks, held no longer than it takes to find the next mark. */
class Scanner {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  #pending: Uint8Array;

  constructor(body: ReadableStream<Uint8Array>, start: Uint8Array) {
    this.#reader = body.getReader();
    this.#pending = start;
  }

  /** Gives what comes before `mark` piece by piece, then steps over it. Throws where there is none. */
  async readUntil(mark: Uint8Array, onPiece: (piece: Uint8Array) => void): Promise<void> {
    for (;;) {
      const at = indexOf(this.#pending, mark);
      if (at !== -1) {
        onPiece(this.#pending.subarray(0, at));
        this.#pending = this.#pending.subarray(at + mark.length);
        return;
      }
      // The mark may have begun in the last bytes.
      const safe = Math.max(0, this.#pending.length - mark.length + 1);
      onPiece(this.#pending.subarray(0, safe));
      await this.#more(this.#pending.subarray(safe));
    }
  }

  /** The next `length` bytes as text, which stay where they are. */
  async peek(length: number): Promise<string> {
    while (this.#pending.length < length) await this.#more(this.#pending);
    return decoder.decode(this.#pending.subarray(0, length));
  }

  release(): void {
    this.#reader.releaseLock();
  }

  async #more(rest: Uint8Array): Promise<void> {
    const { done, value } = await this.#reader.read();
    if (done) throw new MultipartError("The multipart body is cut off");
    this.#pending = rest.length === 0 ? value : concat([rest, value]);
  }
}

/** Collects pieces up to a limit; one byte more is refused as it comes. */
function collector(limitBytes: number, message: string) {
  const pieces: Uint8Array[] = [];
  let length = 0;
  return {
    pieces,
    get length() {
      return length;
    },
    add(piece: Uint8Array): void {
      length += piece.length;
      if (length > limitBytes) throw new MultipartError(message);
      if (piece.length > 0) pieces.push(piece);
    },
  };
}

/**
 * The file in one field of a `multipart/form-data` body (RFC 7578), judged while it streams: nothing
 * after a fault is read. Nothing is kept of other fields.
 *
 * @returns null when there is no such body, or no such field
 * @throws MultipartError for a body that is malformed or too large, or what `checkHead` refused
 */
export async function readMultipartFile(
  body: ReadableStream<Uint8Array> | null,
  contentType: string | null,
  field: string,
  { limitBytes, headBytes, checkHead }: FileLimits,
): Promise<Uint8Array | null> {
  const [, quoted, bare] =
    /^multipart\/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))/i.exec(
      contentType ?? "",
    ) ?? [];
  const boundary = quoted ?? bare;
  if (!body || boundary === undefined) return null;

  const mark = encoder.encode(`\r\n--${boundary}`);
  const headersEnd = encoder.encode("\r\n\r\n");
  // The first boundary has no line before it.
  const scanner = new Scanner(body, encoder.encode("\r\n"));
  const others = collector(OTHER_BYTES, "The other fields are too large");
  try {
    await scanner.readUntil(mark, others.add);
    while ((await scanner.peek(2)) !== "--") {
      const headers = collector(HEADER_BYTES, "The headers of a part are too large");
      await scanner.readUntil(headersEnd, headers.add);
      const text = decoder.decode(concat(headers.pieces));
      const name = /^content-disposition:[^\r\n]*[;\s]name="?([^"\r\n;]*)"?/im.exec(text)?.[1];
      if (name !== field) {
        await scanner.readUntil(mark, others.add);
        continue;
      }
      const file = collector(limitBytes, `The file has more than ${limitBytes} bytes`);
      let isJudged = false;
      await scanner.readUntil(mark, (piece) => {
        file.add(piece);
        if (isJudged || file.length < headBytes) return;
        isJudged = true;
        checkHead(concat(file.pieces));
      });
      const bytes = concat(file.pieces);
      if (!isJudged) checkHead(bytes);
      return bytes;
    }
    return null;
  } finally {
    scanner.release();
  }
}
