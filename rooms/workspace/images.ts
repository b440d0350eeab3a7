import { Hono } from "hono";
import { bearerUser } from "./access.ts";
import { MultipartError, readMultipartFile } from "./multipart.ts";
import type { WorkspaceAppEnv } from "./routes.ts";

export interface ImagesEnv {
  IMAGES: R2Bucket;
  /** Where the bucket is public, without a slash at its end. Default: this Worker's own route. */
  R2_PUBLIC_URL?: string;
}

const IMAGE_BYTES = 5 * 1024 * 1024;
/** Boundary, headers and small fields around the file. */
const ENVELOPE_BYTES = 16 * 1024;
/**
 * How much of a refused body is still read, and for how long, before it is answered. Afterwards the
 * runtime takes no more of it, and a sender in the middle of a write never gets to see the answer.
 */
const DRAIN_BYTES = 16 * 1024 * 1024;
const DRAIN_MS = 500;
/** How many of the first bytes tell what an image is. */
const MAGIC_BYTES = 12;

const TYPES = {
  jpg: "image/jpeg",
  png: "image/png",
  webp: "image/webp",
  gif: "image/gif",
} as const;
type Extension = keyof typeof TYPES;

/** Signatures in Latin-1, `.` standing for any byte; of the formats' own specifications. */
const SIGNATURES: Record<Extension, RegExp> = {
  jpg: /^\xff\xd8\xff/,
  png: /^\x89PNG\r\n.\n/,
  webp: /^RIFF.{4}WEBP/s,
  gif: /^GIF8[79]a/,
};

const PREFIX = "/api/images/";
const KEY = /^covers\/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(jpg|png|webp|gif)$/;

/** What an image is by its first {@link MAGIC_BYTES}; what its sender calls it counts for nothing. */
export function sniffImage(head: Uint8Array): Extension | null {
  const text = String.fromCharCode(...head.subarray(0, MAGIC_BYTES));
  const extensions = Object.keys(SIGNATURES) as Extension[];
  return extensions.find((extension) => SIGNATURES[extension].test(text)) ?? null;
}

/** Reads on for a while and lets go. */
async function drain(body: ReadableStream<Uint8Array>): Promise<void> {
  const reader = body.getReader();
  let timer: ReturnType<typeof setTimeout> | null = null;
  const late = new Promise<"late">((resolve) => {
    timer = setTimeout(resolve, DRAIN_MS, "late");
  });
  try {
    for (let left = DRAIN_BYTES; left > 0; ) {
      const part = await Promise.race([reader.read(), late]);
      if (part === "late") break;
      if (part.done) return;
      left -= part.value.byteLength;
    }
    await reader.cancel();
  } catch {
    // Its sender is gone.
  } finally {
    clearTimeout(timer);
  }
}

/** Covers: uploaded by who has a token, read by all. */
export function imageRoutes(): Hono<WorkspaceAppEnv> {
  const app = new Hono<WorkspaceAppEnv>();

  app.post("/api/upload-image", async (c) => {
    const { body, headers } = c.req.raw;
    const refuse = async (status: 400 | 401, code: string, error: string): Promise<Response> => {
      if (body) await drain(body);
      return c.json({ error, code }, status);
    };
    if ((await bearerUser(c.req.raw, c.env)) === null) {
      return refuse(401, "AUTH_REQUIRED", "A valid token is required");
    }
    // By what is announced, so that no byte has to be read.
    if (Number(headers.get("Content-Length")) > IMAGE_BYTES + ENVELOPE_BYTES) {
      return refuse(400, "INVALID_FILE", "An image has at most 5 MiB");
    }
    let extension: Extension | null = null;
    let bytes: Uint8Array | null;
    try {
      bytes = await readMultipartFile(body, headers.get("Content-Type"), "file", {
        limitBytes: IMAGE_BYTES,
        headBytes: MAGIC_BYTES,
        checkHead(head) {
          extension = sniffImage(head);
          if (extension === null) {
            throw new MultipartError("Only JPEG, PNG, WebP and GIF images are taken");
          }
        },
      });
    } catch (thrown) {
      if (!(thrown instanceof MultipartError)) throw thrown;
      return refuse(400, "INVALID_FILE", thrown.message);
    }
    if (bytes === null || extension === null) {
      return refuse(400, "NO_FILE", "The multipart field `file` is missing");
    }
    const key = `covers/${crypto.randomUUID()}.${extension}`;
    await c.env.IMAGES.put(key, bytes, { httpMetadata: { contentType: TYPES[extension] } });
    const base = c.env.R2_PUBLIC_URL || new URL(PREFIX, c.req.url).href;
    return c.json({ url: `${base.replace(/\/+$/, "")}/${key}`, key }, 200);
  });

  app.get(`${PREFIX}*`, async (c) => {
    // Not decoded: a key has nothing that would have to be.
    const key = new URL(c.req.url).pathname.slice(PREFIX.length);
    const extension = KEY.exec(key)?.[1] as Extension | undefined;
    const match = c.req.header("If-None-Match");
    const image =
      extension &&
      (await c.env.IMAGES.get(
        key,
        match === undefined ? {} : { onlyIf: new Headers({ "If-None-Match": match }) },
      ));
    if (!image) return c.json({ error: "not_found", details: "No such image" }, 404);
    const headers = {
      ETag: image.httpEtag,
      "Cache-Control": "public, max-age=31536000, immutable",
      "Content-Type": TYPES[extension],
      "X-Content-Type-Options": "nosniff",
    };
    return "body" in image
      ? new Response(image.body, { headers })
      : new Response(null, { status: 304, headers });
  });
  return app;
}
