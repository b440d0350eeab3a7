/** `npm run docs:doors`: writes the table of doors into docs/security.md. */
import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { tableOfDoors } from "../test/access/doors.ts";

const PAGE = fileURLToPath(new URL("../docs/security.md", import.meta.url));
const TABLE = /^\| door \|.*\n(?:\|.*\n)+/m;
writeFileSync(
  PAGE,
  readFileSync(PAGE, "utf8").replace(TABLE, () => `${tableOfDoors()}\n`),
);
