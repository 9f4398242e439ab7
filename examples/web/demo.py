"""The demo page: trains its network if there is none, puts the page together, and serves it.

    python -m examples.web.demo [--port=8000] [--host=127.0.0.1] [--folder=.web]

`FOLDER/site` is then a page of static files that any web server can serve. It holds the files of
this folder, the model in the profile `fast` as an archive, and LiteRT.js, which npm fetches in the
version that package-lock.json pins. `FOLDER/run` is the run of train.py that the model comes from.
"""

import argparse
import functools
import http.server
import json
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = ("*.html", "*.css", "*.js")
# Of each kind of the runtime a browser loads one: with relaxed SIMD, and for older ones without.
RUNTIMES = ("litert_wasm_internal", "litert_wasm_compat_internal")


def train(run):
    """Trains the digits model of the main job in `run`, or goes on there, unless it is finished."""
    if (run / "report.json").is_file():
        return
    command = [sys.executable, ROOT / "train.py", f"--workdir={run}"]
    if (run / "settings.json").is_file():
        command.append("--resume")
    print(f"training the network once, in {run}: about a minute", flush=True)
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        sys.exit("demo: the training did not finish, see above.")


def export_options(run, value_range):
    """The flags of `python -m tf_proxquant.litert` for the file of the page."""
    return [
        "--profile=fast", "--batch_size=1", "--archive", "--json",
        f"--labels={run / 'labels.txt'}", f"--value_range={','.join(map(str, value_range))}",
    ]  # fmt: skip


def export(run, site):
    """Writes model.tflite.pqz and model.json into `site`, unless they are newer than the model."""
    source, facts = run / "model.keras", site / "model.json"
    if facts.is_file() and facts.stat().st_mtime > source.stat().st_mtime:
        return
    print("exporting the network", flush=True)
    trained = json.loads((run / "report.json").read_text())
    options = export_options(run, trained["input"]["range"])
    exported = subprocess.run(
        [sys.executable, "-m", "tf_proxquant.litert", source, site / "model.tflite", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if exported.returncode:
        sys.exit(f"demo: the export failed.\n{exported.stderr}")
    said = {
        "title": "A ResNet-8 for digits",
        "float_bytes": json.loads(exported.stdout)["float_bytes"],
        "accuracy": trained["tflite_accuracy"],
        "num_test": trained["images"]["test"],
        "num_train": trained["images"]["train"],
    }
    facts.write_text(json.dumps(said))


def fetch_runtime(packages):
    """Lets npm fetch LiteRT.js into `packages`, unless the pinned version is there."""
    lock = HERE / "package-lock.json"
    mark = packages / "fetched"
    if mark.is_file() and mark.read_bytes() == lock.read_bytes():
        return
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("demo: npm, which fetches LiteRT.js, was not found. Install Node.js 18 or later.")
    print("fetching LiteRT.js", flush=True)
    packages.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, packages)
    fetched = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=packages,
        check=False,
    )
    if fetched.returncode:
        sys.exit("demo: npm could not fetch LiteRT.js, see above.")
    shutil.copy(lock, mark)


def put_together(packages, site):
    """Copies the page and the runtime into `site`."""
    for pattern in PAGE:
        for path in HERE.glob(pattern):
            shutil.copy(path, site)
    shutil.copy(ROOT / "device" / "pqz.mjs", site)
    modules = packages / "node_modules" / "@litertjs"
    (site / "litert" / "wasm").mkdir(parents=True, exist_ok=True)
    shutil.copy(modules / "core/dist/index.js", site / "litert/core.js")
    shutil.copy(modules / "wasm-utils/dist/index.js", site / "litert/wasm-utils.js")
    for name in RUNTIMES:
        for suffix in (".js", ".wasm"):
            shutil.copy(modules / "core/wasm" / (name + suffix), site / "litert/wasm")


def build(folder):
    """Makes everything under `folder` that is not there yet; returns the folder of the page."""
    site = folder / "site"
    site.mkdir(parents=True, exist_ok=True)
    fetch_runtime(folder / "npm")
    train(folder / "run")
    export(folder / "run", site)
    put_together(folder / "npm", site)
    return site


class Handler(http.server.SimpleHTTPRequestHandler):
    """Static files, always fresh, without a line for each request."""

    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def end_headers(self):
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *_):
        pass


def listen(site, host, port):
    """Returns a server of the folder `site`; exits with a message if the port cannot be had."""
    handler = functools.partial(Handler, directory=str(site))
    try:
        return http.server.ThreadingHTTPServer((host, port), handler)
    except (OSError, OverflowError) as error:
        sys.exit(
            f"demo: cannot listen on {host}, port {port} ({error}). "
            "Try make demo ARGS=--port=8001, or --port=0 for any that is free."
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8000, help="0 takes any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets a phone in, and others")
    parser.add_argument("--folder", default=ROOT / ".web", type=pathlib.Path)
    options = parser.parse_args()
    folder = options.folder.resolve()
    try:
        with listen(folder / "site", options.host, options.port) as server:
            build(folder)
            name = "localhost" if options.host in ("0.0.0.0", "::") else options.host
            print(f"http://{name}:{server.server_port}/  (Ctrl-C ends it)", flush=True)
            server.serve_forever()
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()
