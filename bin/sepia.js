#!/usr/bin/env node
// The command `sepia`. The sources are TypeScript run by Node 24 or later, which installs with the
// package `node`; an older Node that started this file hands over to that one.
import { spawn } from 'node:child_process'
import module, { createRequire } from 'node:module'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'

const main = new URL('../src/main.ts', import.meta.url)

if (Number(process.versions.node.split('.')[0]) >= 24) {
  // Stripping types takes longer than most commands; the result is kept in the system's temporary folder.
  module.enableCompileCache()
  await import(main.href)
} else handOver()

function handOver() {
  let node
  try {
    node = createRequire(import.meta.url).resolve(`node/bin/node${process.platform === 'win32' ? '.exe' : ''}`)
  } catch (error) {
    return fail(error)
  }
  // Through the channel the command sees that this process is gone, even when it was killed.
  const stdio = ['inherit', 'inherit', 'inherit', 'ipc']
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio })
  // The terminal interrupts both processes; other senders reach only this one, so it passes signals on.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => {
    process.exitCode = code ?? 128 + constants.signals[signal]
  })
  child.on('error', fail)
}

function fail(error) {
  process.stderr.write(`sepia: cannot start Node 24 (${error.message.split('\n')[0]}); run "npm install" again\n`)
  process.exitCode = 1
}
