"""The stress test that the executor's own protocol was once tried with, as its users wrote it: connect, send `execute`
first, read until the expected text has come, within ten seconds a case. It knows nothing of MCP and does not wait for
`connected`.

    python stress.py URL [SECONDS]

Runs five commands one after the other, then three at once, each on a connection of its own; with SECONDS also one
command of that length, whose client says nothing meanwhile. Prints one line of JSON, the report. Exit status 0 when all
passed.
"""

import asyncio
import json
import sys
import time

import websockets

CASES = [
    ("echo 'MCP Local Test'", "MCP Local Test"),
    ('python3 -c "print(3 + 3)"', "6"),
    ("echo '🚀 émojis ñ 中文'", "🚀 émojis ñ 中文"),
    ('echo ""', "\n"),
    ("date +%Y", "20"),
]


async def case(url, command, expected, limit=10):
    begin = time.monotonic()
    output, status = "", -1
    try:
        async with asyncio.timeout(limit), websockets.connect(url) as ws:
            params = {"command": command}
            await ws.send(json.dumps({"jsonrpc": "2.0", "method": "execute", "params": params, "id": 1}))
            async for text in ws:
                message = json.loads(text)
                params = message.get("params", {})
                if message.get("method") == "process.output":
                    output += params["data"]
                elif message.get("method") == "process.completed":
                    status = params["exit_code"]
                    break
                elif "error" in message:
                    output += json.dumps(message["error"])
                    break
    except Exception as e:
        output += f" [{type(e).__name__}: {e}]"
    took = time.monotonic() - begin
    return {"command": command, "ok": expected in output and status == 0, "output": output[:500], "took": took}


async def main():
    url = sys.argv[1]
    results = [await case(url, command, expected) for command, expected in CASES]
    results += await asyncio.gather(*(case(url, command, expected) for command, expected in CASES[:3]))
    if len(sys.argv) > 2:
        seconds = sys.argv[2]
        code = f"import time; time.sleep({seconds}); print('awake')"
        results.append(await case(url, f'python3 -c "{code}"', "awake", float(seconds) + 10))
    passed = sum(r["ok"] for r in results)
    report = {
        "total_tests": len(results),
        "passed": passed,
        "failed": len(results) - passed,
        "success_rate": f"{100 * passed / len(results):.1f}%",
        "avg_duration": f"{sum(r['took'] for r in results) / len(results):.2f}s",
        "failures": [r for r in results if not r["ok"]],
    }
    print(json.dumps(report))
    return 0 if passed == len(results) else 1


sys.exit(asyncio.run(main()))
