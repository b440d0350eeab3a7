/** What workerd offers to tests under the compatibility flag `unsafe_module`. */
declare module "workerd:unsafe" {
  const unsafe: {
    /** A real eviction of an actor. */
    evict(stub: DurableObjectStub, options: { webSockets: "hibernate" | "close" }): Promise<void>;
  };
  export default unsafe;
}
