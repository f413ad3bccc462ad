// Where a job's pictures lie in the file store. No user text is part of a key.
import type { ContentHash, GenerateTask } from '#worker/protocol.ts'
import { picturesOf } from './resolve-generate.ts'

/** All files of jobs lie under this prefix. */
export const jobFilesPrefix = 'jobs/'

/** Key of a picture that a job starts from. */
export function inputKey(jobId: string, hash: ContentHash): string {
  return `${jobFilesPrefix}${jobId}/input/${hash}`
}

/** Key of a picture that an attempt at a job has made. */
export function outputKey(jobId: string, attempt: number, index: number): string {
  return `${jobFilesPrefix}${jobId}/output/${attempt}-${index}`
}

/** Keys of everything that a task starts from. */
export function inputKeys(jobId: string, task: GenerateTask): string[] {
  return picturesOf(task).map((hash) => inputKey(jobId, hash))
}

/** The job that a key belongs to; null for a key of another form. */
export function jobOfKey(key: string): string | null {
  return /^jobs\/(req_[0-9a-z]{26})\/(?:input\/[0-9a-f]{64}|output\/\d+-\d+)$/.exec(key)?.[1] ?? null
}
