"""Real clients through the proxy, headless, against a scripted model: `make test-clients`, `python -m qa.clients`.

    client (pinned, from npm or PyPI) -> the proxy, a process of its own -> the simulator with the script of script.py

Each client does one task: read a file, list the folder, write a file, edit it, run a test. It passes when the file has
the content, the model saw the results of the tools, the client said the model's last word and ended well, and nothing
that was not a fault of the scenario was refused. The model is the simulator with its tokenizer's own checks, so a
conversation that a real vLLM would refuse is refused here.
"""
