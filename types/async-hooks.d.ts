/**
 * What the compatibility flag `nodejs_als` gives of node:async_hooks. Declared by hand, since
 * @types/node would bring the whole of Node into code that does not run there.
 */
declare module "node:async_hooks" {
  export class AsyncLocalStorage<T> {
    static bind<Fn extends (...args: never[]) => unknown>(fn: Fn): Fn;
    static snapshot(): <R, Args extends unknown[]>(fn: (...args: Args) => R, ...args: Args) => R;
    getStore(): T | undefined;
    run<R, Args extends unknown[]>(store: T, fn: (...args: Args) => R, ...args: Args): R;
    exit<R, Args extends unknown[]>(fn: (...args: Args) => R, ...args: Args): R;
  }
}
