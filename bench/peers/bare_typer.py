"""The least that a program with two commands by typer can be."""

import typer

app = typer.Typer()


@app.command()
def one() -> None:
    """Say one."""
    print("one")


@app.command()
def two() -> None:
    """Say two."""
    print("two")


app()
