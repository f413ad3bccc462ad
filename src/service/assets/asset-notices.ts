// What processes tell each other about assets over LISTEN/NOTIFY. A notice is a hint; what is true stands in the table.
import { sql, type SQL } from 'drizzle-orm'
import type { Database } from '../db/database.ts'
import type { AssetStatus } from '../db/schema.ts'

/** An asset has a new status. */
export type AssetNotice = { readonly assetId: string; readonly status: AssetStatus }

type Listener = {
  readonly onNotice: (notice: AssetNotice) => void
  /** Notices may have been missed: look into the table. */
  readonly onGap: () => void
}

const channel = 'sepia_assets'

/** A column for `returning` that sends the notice when a row was changed. */
export function assetNotified(notice: AssetNotice): SQL {
  return sql`pg_notify(${channel}, ${JSON.stringify(notice)})`
}

/** This process's ear, shared by everybody who waits for an asset. */
export class AssetNotices implements AsyncDisposable {
  readonly #listeners = new Set<Listener>()
  #stop: () => Promise<void> = async () => {}

  static async open(database: Database): Promise<AssetNotices> {
    const notices = new AssetNotices()
    notices.#stop = await database.listen(
      channel,
      (payload) => {
        const notice = JSON.parse(payload) as AssetNotice
        for (const { onNotice } of notices.#listeners) onNotice(notice)
      },
      () => {
        for (const { onGap } of notices.#listeners) onGap()
      },
    )
    return notices
  }

  subscribe(listener: Listener): Disposable {
    this.#listeners.add(listener)
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stop()
  }
}
