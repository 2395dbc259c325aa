import json
import sqlite3
import sys

db = sqlite3.connect(sys.argv[1])
if "--plant" in sys.argv:
    db.execute("UPDATE account SET cents = cents + 1 WHERE number = 1")
    db.commit()
balances = [cents for (cents,) in db.execute("SELECT cents FROM account ORDER BY number")]
(prepared,) = db.execute("SELECT count(*) FROM branch WHERE NOT committed").fetchone()
statement = db.execute("SELECT lower(hex(gtrid)), account, cents FROM statement").fetchall()
print(json.dumps({"balances": balances, "prepared": prepared, "statement": statement}))
