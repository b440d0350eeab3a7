/** A token for this user from the app's own login: `logIn` in worker/login.ts. */
export async function logIn(name: string): Promise<string> {
  const response = await fetch("/login", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ name }),
  });
  if (!response.ok) throw new Error(`The login failed: ${response.status}`);
  return ((await response.json()) as { token: string }).token;
}
