// The one release of OpenVINO that Sepia installs, as PyPI has it: a wheel a platform, each known by its digest.
import { AppError } from '../errors.ts'

/** What pip is asked for, and what it must bring. */
export type OpenvinoWheel = { readonly file: string; readonly tag: string; readonly sha256: string }

/** The release. */
export const openvinoVersion = '2026.4.1'

// The libraries are the same in the wheels of each Python; these are the ones for 3.12, whatever Python the machine has.
const wheels: Readonly<Record<string, readonly [tag: string, sha256: string]>> = {
  'linux-x64': ['manylinux_2_28_x86_64', '6b4375c17ddcac83a5180349e2e2bb811185c261066e2a920659892d58ef0e3b'],
  'linux-arm64': ['manylinux_2_35_aarch64', '82efccb2f9f1bdc7e5a1996e05a3b719ebff9232dd54b44150d6d2e983a86b7d'],
  'darwin-arm64': ['macosx_11_0_arm64', '726ac547b8474a5e7b145bc1ae5a8bb6fbcbb60b79bd9a611c67eec2c74b7a5f'],
  'win32-x64': ['win_amd64', '4e04316abff1b99e29b8cbd38deaef9bde4739eba216d982d4b3981e456ecd87'],
}

/** The wheel for a platform. Throws `unsupported` where there is none. */
export function openvinoWheel(platform: string, arch: string): OpenvinoWheel {
  const found = wheels[`${platform}-${arch}`]
  if (!found)
    throw new AppError(
      'unsupported',
      `openvino: there is no wheel for ${platform} ${arch}, only for ${Object.keys(wheels).join(', ')}`,
    )
  const [tag, sha256] = found
  return { file: `openvino-${openvinoVersion}-22982-cp312-cp312-${tag}.whl`, tag, sha256 }
}

/** What pip's `download` is told, to fetch a wheel into a folder: that file and nothing else. */
export function pipArguments({ tag }: OpenvinoWheel, folder: string): readonly string[] {
  const python = { implementation: 'cp', 'python-version': '3.12', abi: 'cp312', platform: tag, dest: folder }
  const flags = ['--no-deps', '--only-binary=:all:', '--no-input', '--disable-pip-version-check', '--quiet']
  const options = Object.entries(python).flatMap(([name, value]) => [`--${name}`, value])
  return ['download', ...flags, ...options, `openvino==${openvinoVersion}`]
}
