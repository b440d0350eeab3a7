import { Hono } from "hono";
import { spend } from "../../src/access/quota.ts";
import { drainBody, readForm } from "../../src/http/body.ts";
import { type OriginEnv, publicOrigin } from "../../src/http/origin.ts";
import { RollcallError } from "../../src/wire/errors.ts";
import { bearerUser } from "./access.ts";

export interface ImagesEnv extends OriginEnv {
  ENVIRONMENT?: string;
  IMAGES: R2Bucket;
  /** Holds the table `rollcall_images`: each image with its user. The Worker creates the table. */
  DB: D1Database;
  /** Images that one user may have stored. Default 1 000. */
  IMAGES_PER_USER?: string;
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

const PER_USER = 1_000;
const TABLE = "rollcall_images";
/** Databases that have the table, as far as this isolate knows. */
const prepared = new WeakSet<D1Database>();

/** The images of users by key: an image from before this release has no row, and nobody can delete it. */
class ImageIndex {
  readonly #db: D1Database;

  private constructor(db: D1Database) {
    this.#db = db;
  }

  static async open(db: D1Database): Promise<ImageIndex> {
    if (!prepared.has(db)) {
      await db.batch([
        db.prepare(
          `CREATE TABLE IF NOT EXISTS ${TABLE} (key TEXT PRIMARY KEY, user_id TEXT NOT NULL) WITHOUT ROWID`,
        ),
        db.prepare(`CREATE INDEX IF NOT EXISTS ${TABLE}_by_user ON ${TABLE} (user_id)`),
      ]);
      prepared.add(db);
    }
    return new ImageIndex(db);
  }

  /** @returns false when the user has `limit` images: nothing is added then */
  async add(key: string, userId: string, limit: number): Promise<boolean> {
    const sql = `INSERT INTO ${TABLE} (key, user_id) SELECT ?1, ?2
      WHERE (SELECT COUNT(*) FROM ${TABLE} WHERE user_id = ?2) < ?3`;
    return (await this.#db.prepare(sql).bind(key, userId, limit).run()).meta.changes > 0;
  }

  async isOf(key: string, userId: string): Promise<boolean> {
    const sql = `SELECT 1 FROM ${TABLE} WHERE key = ?1 AND user_id = ?2`;
    return (await this.#db.prepare(sql).bind(key, userId).first()) !== null;
  }

  async remove(key: string): Promise<void> {
    await this.#db.prepare(`DELETE FROM ${TABLE} WHERE key = ?1`).bind(key).run();
  }
}

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

/** Not decoded: no character of a key is ever escaped. */
function keyOf(url: string): string {
  return new URL(url).pathname.slice(PREFIX.length);
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
    let userId: string | null;
    try {
      userId = await bearerUser(request, c.env, "images", "upload");
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
    const limit = Number(c.env.IMAGES_PER_USER) || PER_USER;
    const index = await ImageIndex.open(c.env.DB);
    if (!(await index.add(key, userId, limit))) {
      return refuse(403, "LIMIT_REACHED", `A user has at most ${limit} images`);
    }
    try {
      await c.env.IMAGES.put(key, file, { httpMetadata: { contentType: TYPES[extension] } });
    } catch (thrown) {
      await index.remove(key);
      throw thrown;
    }
    const base = c.env.R2_PUBLIC_URL || `${publicOrigin(request, c.env) ?? ""}${PREFIX}`;
    return c.json({ url: `${base.replace(/\/+$/, "")}/${key}`, key }, 200);
  });

  app.delete(`${PREFIX}*`, async (c) => {
    const key = keyOf(c.req.url);
    let userId: string | null;
    try {
      userId = await bearerUser(c.req.raw, c.env, "images", "delete");
    } catch (thrown) {
      if (!(thrown instanceof RollcallError) || thrown.code !== "forbidden") throw thrown;
      return c.json({ error: thrown.message, code: "FORBIDDEN" }, 403);
    }
    if (userId === null) {
      return c.json({ error: "A valid token is required", code: "AUTH_REQUIRED" }, 401);
    }
    const index = await ImageIndex.open(c.env.DB);
    if (!(await index.isOf(key, userId))) throw new RollcallError("not_found", "No such image");
    // If this is cut off in between, the same request ends it.
    await c.env.IMAGES.delete(key);
    await index.remove(key);
    return c.body(null, 204);
  });

  app.get(`${PREFIX}*`, async (c) => {
    const key = keyOf(c.req.url);
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
