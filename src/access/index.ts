/** Who may do what, for rooms and Workers of your own: `rollcall/access`. */
export { DEFAULT_CAP, type Grant, type GrantEnv } from "./grant.ts";
export type { TokenEnv } from "./jwt.ts";
export { type Identity, readToken } from "./token.ts";
