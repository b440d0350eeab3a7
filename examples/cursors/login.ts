/** In development a token is a name. A service of yours signs one for the user that has logged in. */
export function logIn(name: string): string {
  return `user:${name}`;
}
