"""Speaks to a program on its standard streams, whose other side is an instance of mcpdaemon, while that one is stopped, killed
and started again: each time the next calls are answered.

    python lasting.py ROUNDS TOOL MCPDAEMON MCPCTL FILE RUN_DIR COMMAND...
    python lasting.py ROUNDS TOOL MCPDAEMON MCPCTL FILE,FILE RUN_DIR,RUN_DIR COMMAND...

With two instances of the same name, behind a haproxy whose statistics are at the URL in BALANCER, they end in turn, and the
calls are answered while one is not there. For the tests: prints a line for each round, and fails with a reason.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

rounds, tool, mcpdaemon, mcpctl, file, run_dir, *command = sys.argv[1:]
files, run_dirs = file.split(","), run_dir.split(",")
host, port = re.search(r"http://([\d.]+):(\d+)/", " ".join(command)).groups()
address = (host, int(port))
name = os.path.basename(files[0]).removesuffix(".ron")
client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
answers: dict[int, dict] = {}
arrived = threading.Condition()


def read() -> None:
    for line in client.stdout:
        message = json.loads(line)
        if "id" in message and "method" not in message:
            with arrived:
                answers[message["id"]] = message
                arrived.notify_all()


threading.Thread(target=read, daemon=True).start()
numbers = iter(range(1, 1_000_000))


def send(message: dict) -> None:
    client.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    client.stdin.flush()


def ask(method: str, params: dict, limit: float) -> dict | None:
    number = next(numbers)
    send({"id": number, "method": method, "params": params})
    with arrived:
        arrived.wait_for(lambda: number in answers or client.poll() is not None, limit)
    if client.poll() is not None:
        sys.exit(f"the client has ended: {client.returncode}")
    return answers.get(number)


def calls() -> None:
    """One call that is answered; what was kept open to the process before may cost a try."""
    end, last = time.monotonic() + 30, None
    while time.monotonic() < end:
        last = ask("tools/call", {"name": tool, "arguments": {"message": "hello", "text": "hello"}}, 10)
        if last and "hello" in json.dumps(last.get("result")):
            return
        time.sleep(0.1)
    sys.exit(f"no call is answered any more: {last}")


def pid(run_dir: str) -> int:
    with open(f"{run_dir}/{name}.pid") as pid_file:
        return int(pid_file.read())


def run(run_dir: str, *words: str) -> None:
    environment = {**os.environ, "MCP_RUN_DIR": run_dir}
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)


def all_up() -> None:
    """Waits until the balancer has seen both."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with urllib.request.urlopen(os.environ["BALANCER"] + ";csv") as answer:
            lines = [line.split(",") for line in answer.read().decode().splitlines()]
        at = lines[0].index("status")
        if sum(line[0] == "mcp" and line[1] not in ("FRONTEND", "BACKEND") and line[at] == "UP" for line in lines) == 2:
            return
        time.sleep(0.1)
    sys.exit("the balancer does not see both")


def fail_over(number: int) -> None:
    own = run_dirs[number % 2]
    how = ["stop", "stop", "kill -9", "kill -9"][number % 4]
    all_up()
    if how == "stop":
        run(own, mcpctl, "stop", name)
    else:
        os.kill(pid(own), signal.SIGKILL)
    calls()
    print(f"{number}: goes on after {how} at the other", flush=True)
    run(own, mcpdaemon, "-c", files[number % 2])


hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "lasting", "version": "1"}}
if not ask("initialize", hello, 30):
    sys.exit("no handshake")
send({"method": "notifications/initialized"})
calls()
for number in range(int(rounds)):
    if len(files) == 2:
        fail_over(number)
        continue
    how = ["stop", "kill -9", "reboot"][number % 3]
    if how == "stop":
        run(run_dir, mcpctl, "stop", name)
    else:
        os.kill(pid(run_dir), signal.SIGKILL)
    if how == "reboot":
        # Nothing of before is there then: not even a process that is still ending.
        while socket.socket().connect_ex(address) == 0:
            time.sleep(0.01)
        shutil.rmtree(run_dir)
    run(run_dir, mcpdaemon, "-c", file)
    calls()
    print(f"{number}: goes on after {how}", flush=True)
client.kill()
client.wait()
