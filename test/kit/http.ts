/** Well over a stall of the machine. */
const ANSWER_MS = 20_000;

/** @throws Error when there is no answer, or none with a 2xx status */
export async function getJson<T>(url: string, token?: string): Promise<T> {
  const response = await fetch(url, {
    signal: AbortSignal.timeout(ANSWER_MS),
    ...(token !== undefined && { headers: { Authorization: `Bearer ${token}` } }),
  });
  if (!response.ok) throw new Error(`${new URL(url).pathname} answered ${response.status}`);
  return (await response.json()) as T;
}

/** Posts JSON. Status 0: no complete answer came in time. */
export async function post(
  url: string,
  body: object,
  { token, timeoutMs = ANSWER_MS }: { token?: string; timeoutMs?: number } = {},
): Promise<{ status: number; text: string }> {
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        ...(token !== undefined && { Authorization: `Bearer ${token}` }),
      },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(timeoutMs),
    });
    const text = await response.text();
    return { status: response.status, text };
  } catch {
    return { status: 0, text: "" };
  }
}
