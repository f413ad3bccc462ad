/** What a command needs of the terminal that it was called from; main.ts makes the real one. */
export type Terminal = {
  readonly stdout: NodeJS.WritableStream
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean }
  /** Aborted when the user or the system asks the command to end. */
  readonly signal: AbortSignal
  /** Aborted when they ask a second time: the end may not take time any more. */
  readonly urgent?: AbortSignal
  /** Another engine program than worker/main.ts. */
  readonly engineEntry?: URL
}
