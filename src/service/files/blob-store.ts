// Where bytes lie that are too large for a row: pictures that jobs start from and pictures that they make, and assets.

/** A store of bytes by key. A key is made by us, such as `jobs/req_…/input/<sha256>`; no text of a user's is in it. */
export type BlobStore = {
  /** Store bytes; whoever reads sees all of them or nothing. Throws `storage_unavailable`, `disk_full`. */
  put(key: string, bytes: Uint8Array): Promise<void>
  /** The bytes, or null where there are none. */
  get(key: string): Promise<Uint8Array | null>
  /**
   * Store what comes in pieces, however much that is, without holding it in memory; when `chunks` throws, nothing is left.
   * Throws `storage_unavailable`, `disk_full`, and what `chunks` throws.
   */
  write(key: string, chunks: AsyncIterable<Uint8Array>): Promise<void>
  /** The bytes in pieces, from `start` on, or null where there are none. */
  read(key: string, start?: number): Promise<AsyncIterable<Uint8Array> | null>
  /** The file of this machine in which the bytes lie, whether there are any or not; null for a store elsewhere. */
  placeOf(key: string): string | null
  /** Remove what is there; keys that are not are no error. */
  delete(keys: readonly string[]): Promise<void>
  /** All blobs whose key begins with `prefix`, in no order; those that come or go meanwhile may be missing. */
  list(prefix: string): AsyncIterable<Blob>
}

/** One entry of a list. */
export type Blob = { readonly key: string; readonly sizeBytes: number; readonly modifiedAt: Date }

const keyPattern = /^[a-z0-9][a-z0-9_-]*(?:\/[a-z0-9][a-z0-9_-]*)*$/

/** Give back `key` where it is one that we make: no dots, no empty parts, so that no path leaves its folder. */
export function checkedKey(key: string): string {
  if (!keyPattern.test(key) || key.length > 512) throw new Error(`no key of a blob: ${JSON.stringify(key)}`)
  return key
}
