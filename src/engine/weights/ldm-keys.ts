// How the names of a single file become diffusers' keys: one pure function a network.

/** Name → shape, for the tensors under one prefix of a file. */
export type Shapes = ReadonlyMap<string, readonly number[]>

/** Where a stored tensor goes: whole, as one of equal parts of its rows, transposed, or without trailing 1×1. */
export type KeyTarget = {
  readonly key: string
  readonly part?: { readonly index: number; readonly of: number }
  readonly form?: 'transposed' | 'squeezed'
}

/** The places of one stored tensor; null when the network has no place for the name. */
export type KeyMap = (name: string) => readonly KeyTarget[] | null
