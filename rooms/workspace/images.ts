import { Hono } from "hono";
import { spend } from "../../src/access/quota.ts";
import { drainBody, readForm } from "../../src/http/body.ts";
import { type OriginEnv, publicOrigin } from "../../src/http/origin.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { bearerUser } from "./access.ts";

export interface ImagesEnv extends OriginEnv {
  ENVIRONMENT?: string;
  IMAGES: R2Bucket;
  /** Where the bucket is public, with or without a slash at its end. Default: this Worker's route. */
  R2_PUBLIC_URL?: string;
}

const IMAGE_BYTES = 5 * 1024 * 1024;
/** Boundaries, headers and small fields around the file. */
const ENVELOPE_BYTES = 16 * 1024;
/** The longest signature. */
const SIGNATURE_BYTES = 12;

const TYPES = {
  jpg: "image/jpeg",
  png: "image/png",
  webp: "image/webp",
  gif: "image/gif",
} as const;
type Extension = keyof typeof TYPES;

/** How each format's files begin, by its specification: in Latin-1, `.` for any byte. */
const SIGNATURES: Record<Extension, RegExp> = {
  jpg: /^\xff\xd8\xff/,
  png: /^\x89PNG\r\n.\n/,
  webp: /^RIFF.{4}WEBP/s,
  gif: /^GIF8[79]a/,
};

const PREFIX = "/api/images/";
const KEY = /^covers\/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(jpg|png|webp|gif)$/;

/** The format of an image by its first bytes. The type that its sender declares is not read. */
async function sniffImage(image: Blob): Promise<Extension | undefined> {
  const head = new Uint8Array(await image.slice(0, SIGNATURE_BYTES).arrayBuffer());
  const text = String.fromCharCode(...head);
  const extensions = Object.keys(SIGNATURES) as Extension[];
  return extensions.find((extension) => SIGNATURES[extension].test(text));
}

/** The field `file` of an upload; null when the upload has none, `undefined` when it is too large. */
async function readFile(request: Request): Promise<File | null | undefined> {
  const type = request.headers.get("Content-Type") ?? "";
  if (!request.body || !/^multipart\/form-data *;/i.test(type)) return null;
  const form = await readForm(request, IMAGE_BYTES + ENVELOPE_BYTES);
  if (!form) return undefined;
  const file = form.get("file");
  return file instanceof File ? file : null;
}

/** Covers: uploaded by users with a token, readable by everybody. */
export function imageRoutes<E extends ImagesEnv>(): Hono<{ Bindings: E }> {
  const app = new Hono<{ Bindings: E }>();

  app.post("/api/upload-image", async (c) => {
    const request = c.req.raw;
    const refuse = async (
      status: 400 | 401 | 403,
      code: string,
      error: string,
    ): Promise<Response> => {
      await drainBody(request);
      return c.json({ error, code }, status);
    };
    try {
      const userId = await bearerUser(request, c.env, "images", "upload");
      if (userId === null) return refuse(401, "AUTH_REQUIRED", "A valid token is required");
      await spend(c.env, "LIMIT_UPLOADS", userId);
    } catch (thrown) {
      if (!(thrown instanceof RollcallError) || thrown.code !== "forbidden") throw thrown;
      return refuse(403, "FORBIDDEN", thrown.message);
    }
    let file: File | null | undefined;
    try {
      file = await readFile(request);
    } catch (thrown) {
      if (!(thrown instanceof RollcallError)) throw thrown;
      return refuse(400, "INVALID_FILE", thrown.message);
    }
    if (file === null) return refuse(400, "NO_FILE", "The multipart field `file` has no file");
    if (file === undefined || file.size > IMAGE_BYTES) {
      return refuse(400, "INVALID_FILE", "An image has at most 5 MiB");
    }
    const extension = await sniffImage(file);
    if (!extension) {
      return refuse(400, "INVALID_FILE", "Only JPEG, PNG, WebP and GIF images are accepted");
    }
    const key = `covers/${crypto.randomUUID()}.${extension}`;
    await c.env.IMAGES.put(key, file, { httpMetadata: { contentType: TYPES[extension] } });
    const base = c.env.R2_PUBLIC_URL || `${publicOrigin(request, c.env) ?? ""}${PREFIX}`;
    return c.json({ url: `${base.replace(/\/+$/, "")}/${key}`, key }, 200);
  });

  app.get(`${PREFIX}*`, async (c) => {
    // Not decoded: no character of a key is ever escaped.
    const key = new URL(c.req.url).pathname.slice(PREFIX.length);
    const extension = KEY.exec(key)?.[1] as Extension | undefined;
    const match = c.req.header("If-None-Match");
    const image =
      extension &&
      (await c.env.IMAGES.get(
        key,
        match === undefined ? {} : { onlyIf: new Headers({ "If-None-Match": match }) },
      ));
    if (!image) throw new RollcallError("not_found", "No such image");
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
