"""A server that names photos and computes what comes at the same time together.

    python examples/serve.py --model_file runs/mine/model.keras
    curl --data-binary @photo.jpg http://localhost:8000

Threads decode the photos; one thread has the model and takes up to 16 photos that wait, so a batch
forms when there is much to do and nobody waits when there is little.
"""

import argparse
import concurrent.futures
import contextlib
import http.server
import json
import queue
import threading
import urllib.request

import keras
import numpy as np

import keras_effv2 as kev

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model_file", help="a .keras file; default: EfficientNetV2-B0 on ImageNet")
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--smoke", action="store_true", help="ask it once, with random weights")


def compute(waiting, model, most=16):
    while True:
        batch = [waiting.get()]
        with contextlib.suppress(queue.Empty):
            while len(batch) < most:
                batch.append(waiting.get_nowait())
        scores = model.predict_on_batch(np.stack([image for image, _ in batch]))
        for (_, answer), row in zip(batch, scores, strict=True):
            answer.set_result(row)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        try:
            photo = self.rfile.read(int(self.headers["Content-Length"]))
            image, answer = kev.prepare_image(self.server.model, photo), concurrent.futures.Future()
            self.server.waiting.put((image, answer))
            best = zip(answer.result(), self.server.names, strict=True)
            self.reply(200, {name: float(score) for score, name in sorted(best, reverse=True)[:5]})
        except (TypeError, ValueError) as error:
            self.reply(400, {"error": str(error)})

    def reply(self, code, content):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode() + b"\n")


def main(args):
    weights = None if args.smoke else "imagenet"
    own = args.model_file
    model = keras.saving.load_model(own) if own else kev.EfficientNetV2B0(weights=weights)
    server = http.server.ThreadingHTTPServer(("localhost", 0 if args.smoke else args.port), Handler)
    server.model, server.names, server.waiting = model, kev.class_names(model), queue.Queue()
    threading.Thread(target=compute, args=(server.waiting, model), daemon=True).start()
    address = f"http://localhost:{server.server_port}"
    print(f"{address} names what it is sent.")
    if not args.smoke:
        server.serve_forever()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    photo = keras.utils.array_to_img(np.random.default_rng(0).uniform(0, 255, (80, 100, 3)))
    photo.save("photo.png")
    with open("photo.png", "rb") as file, urllib.request.urlopen(address, file.read()) as answer:
        print(answer.read().decode())


if __name__ == "__main__":
    main(parser.parse_args())
