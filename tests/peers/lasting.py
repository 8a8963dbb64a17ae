"""Speaks to a program on its standard streams, whose other side is an instance of mcpdaemon, while that one is stopped, killed
and started again: each time the next calls are answered.

    python lasting.py ROUNDS TOOL MCPDAEMON MCPCTL FILE RUN_DIR COMMAND...

For the tests: prints a line for each round, and fails with a reason.
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

rounds, tool, mcpdaemon, mcpctl, file, run_dir, *command = sys.argv[1:]
host, port = re.search(r"http://([\d.]+):(\d+)/", " ".join(command)).groups()
address = (host, int(port))
name = os.path.basename(file).removesuffix(".ron")
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
        last = ask("tools/call", {"name": tool, "arguments": {"message": "hello"}}, 10)
        if last and "Echo: hello" in json.dumps(last.get("result")):
            return
        time.sleep(0.1)
    sys.exit(f"no call is answered any more: {last}")


hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "lasting", "version": "1"}}
if not ask("initialize", hello, 30):
    sys.exit("no handshake")
send({"method": "notifications/initialized"})
calls()
for number in range(int(rounds)):
    with open(f"{run_dir}/{name}.pid") as pid_file:
        pid = int(pid_file.read())
    how = ["stop", "kill -9", "reboot"][number % 3]
    if how == "stop":
        subprocess.run([mcpctl, "stop", name], check=True, stdout=subprocess.DEVNULL)
    else:
        os.kill(pid, signal.SIGKILL)
    if how == "reboot":
        # Nothing of before is there then: not even a process that is still ending.
        while socket.socket().connect_ex(address) == 0:
            time.sleep(0.01)
        shutil.rmtree(run_dir)
    subprocess.run([mcpdaemon, "-c", file], check=True, stdout=subprocess.DEVNULL)
    calls()
    print(f"{number}: goes on after {how}", flush=True)
client.kill()
client.wait()
