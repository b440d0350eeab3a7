/**
 * What pages without a bundler load: `rollcall.js`, whose exports are properties of the global `Rollcall`, and
 * `rollcall.mjs`, a module. The service serves both, and the package has both in `dist`.
 */
export { RollcallError, VeraniClient } from "./client.ts";
export { watchDevices } from "./devices.ts";
export { FanoutClient, FanoutError } from "./fanout.ts";
export { joinMoods } from "./moods.ts";
export { PeopleClient, PeopleError } from "./people.ts";
