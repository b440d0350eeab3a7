/** The options of a command, with `--help`. */
import { type ParseArgsOptionsConfig, parseArgs } from "node:util";

type Values<T extends ParseArgsOptionsConfig> = ReturnType<
  typeof parseArgs<{ options: T }>
>["values"];

/** The options are wrong; the message says how. */
export class UsageError extends Error {}

/** Prints `usage` and ends the process when `--help` or `-h` is among the arguments. */
export function answerHelp(usage: string): void {
  if (!process.argv.slice(2).some((arg) => arg === "--help" || arg === "-h")) return;
  process.stdout.write(usage);
  process.exit(0);
}

/**
 * Calls `use` with the options of the command line. When they are wrong, for `parseArgs` or by a UsageError of
 * `use`, it prints what is wrong and `usage`, and ends the process with 2.
 *
 * @param usage printed for `--help`
 * @param options as `parseArgs` takes them
 * @returns what `use` returns
 */
export async function withOptions<T extends ParseArgsOptionsConfig, R>(
  usage: string,
  options: T,
  use: (values: Values<T>) => R | Promise<R>,
): Promise<R> {
  answerHelp(usage);
  try {
    return await use(parseArgs({ options }).values);
  } catch (error) {
    const code = error instanceof Error && "code" in error ? `${error.code}` : "";
    if (!(error instanceof UsageError) && !code.startsWith("ERR_PARSE_ARGS")) throw error;
    process.stderr.write(`${(error as Error).message}\n\n${usage}`);
    process.exit(2);
  }
}
