/** What a token allows: operations by resource. A resource that ends in `*` stands for all that begin so. */
export type Cap = Readonly<Record<string, readonly string[]>>;

/** Stands for the id of the token's user in a resource. */
const SELF = "<self>";

function names(pattern: string, resource: string, userId: string): boolean {
  const isPrefix = pattern.endsWith("*");
  // The star is read first: a user named `*` is a user like any other.
  const stem = (isPrefix ? pattern.slice(0, -1) : pattern).replaceAll(SELF, () => userId);
  return isPrefix ? resource.startsWith(stem) : resource === stem;
}

/** Whether `cap`, of the token of `userId`, allows an operation on a resource. */
export function allows(cap: Cap, userId: string, resource: string, operation: string): boolean {
  return Object.entries(cap).some(
    ([pattern, operations]) => operations.includes(operation) && names(pattern, resource, userId),
  );
}
