import type { JobResult } from '../db/schema.ts'

/** More pictures of a job are read from the file store again. */
const mostPictures = 4

const kept = new WeakMap<JobResult, readonly Uint8Array[]>()

/** Keep the encoded pictures of a result as long as somebody has it who waited for it in this process. */
export function keepAtHand(result: JobResult, pictures: readonly Uint8Array[]): void {
  if (pictures.length <= mostPictures) kept.set(result, pictures)
}

/** The pictures of a result that were made by this process just now, in order; null where they have to be read. */
export function picturesAtHand(result: JobResult): readonly Uint8Array[] | null {
  return kept.get(result) ?? null
}
