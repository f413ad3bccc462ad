#!/usr/bin/env node
// The command `sepia`. The sources are TypeScript run by Node 24 or later, which installs with the
// package `node`; an older Node that started this file hands over to that one.
import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const main = new URL('../src/main.ts', import.meta.url)

if (Number(process.versions.node.split('.')[0]) >= 24) {
  await import(main.href)
} else {
  const node = createRequire(import.meta.url).resolve('node/bin/node')
  const child = spawn(node, [fileURLToPath(main), ...process.argv.slice(2)], { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => {
    process.exitCode = code ?? (signal === 'SIGINT' ? 130 : 143)
  })
  child.on('error', (error) => {
    process.stderr.write(`sepia: cannot start Node 24 (${error.message}); run "npm install" again\n`)
    process.exitCode = 1
  })
}
