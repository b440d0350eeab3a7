/**
 * Who may do what, for rooms and Workers of your own: `rollcall/access`.
 *
 * @module
 */

export type { Cap } from "../wire/grant.ts";
export type { Authenticate } from "./authenticate.ts";
export type { RevocationEnv } from "./claims.ts";
export { DEFAULT_CAP, type Grant, type GrantEnv } from "./grant.ts";
export type { TokenEnv } from "./jwt.ts";
export { type Identity, readToken } from "./token.ts";
