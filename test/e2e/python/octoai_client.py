"""What OctoAI's official client for Python gets from a server: `octoai_client.py URL TOKEN LIMITED_TOKEN` prints it as JSON."""

import base64
import json
import sys
import time

import httpx
from octoai.client import OctoAI
from octoai.core import ApiError
from octoai.environment import OctoAIEnvironment
from octoai.image_gen import UnprocessableEntityError

url, token, limited_token = sys.argv[1:]
environment = OctoAIEnvironment(default=url, image_gen=url, text_gen=url)
endpoint = f"{url}/generate/sdxl"
order = dict(prompt="a red apple", steps=2, seed=7)


def client(key):
    # Its infer, infer_async and health_check send nothing but what the HTTP client sends by itself.
    http = httpx.Client(headers={"Authorization": f"Bearer {key}"}, timeout=300)
    return OctoAI(environment=environment, api_key=key, httpx_client=http)


def format_of(image):
    return {b"\x89PNG": "PNG", b"\xff\xd8\xff\xe0": "JPEG"}.get(base64.b64decode(image)[:4], "unknown")


def failure(key, **fields):
    try:
        client(key).image_gen.generate_sdxl(**{**order, **fields})
    except ApiError as error:
        return error
    raise AssertionError("nothing failed")


def wait(future):
    while not octo.is_future_ready(future):
        time.sleep(0.05)
    return True


octo = client(token)
direct = octo.image_gen.generate_sdxl(**order, num_images=2, image_encoding="png", use_refiner=False)
again = octo.image_gen.generate_sdxl(**{**order, "seed": 8}, image_encoding="png", use_refiner=False)
invalid = failure(token, steps=0)
assert isinstance(invalid, UnprocessableEntityError)
inferred = octo.infer(endpoint, order)
future = octo.infer_async(endpoint, order)
ready = wait(future)
result = octo.get_future_result(future)
failing = octo.infer_async(endpoint, {**order, "prompt": "apple " * 700})
wait(failing)
try:
    failed = octo.get_future_result(failing)
except httpx.HTTPStatusError as error:
    failed = error.response.status_code


def told(error):
    return {"class": type(error).__name__, "status": error.status_code}


print(
    json.dumps(
        {
            "direct": {
                "seeds": [image.seed for image in direct.images],
                "formats": [format_of(image.image_b64) for image in direct.images],
            },
            "same": direct.images[1].image_b64 == again.images[0].image_b64,
            "validation": {**told(invalid), "loc": list(invalid.body.detail[0].loc)},
            "unauthorized": told(failure("sepia_unknown")),
            "limited": told(failure(limited_token)),
            "inferred": {"seed": inferred["images"][0]["seed"]},
            "future": {
                "ready": ready,
                "seed": result["images"][0]["seed"],
                "same": result["images"] == inferred["images"],
            },
            "failed": failed,
            "health": octo.health_check(f"{url}/health"),
        }
    )
)
